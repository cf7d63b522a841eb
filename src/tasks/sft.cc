#include <memory>
#include <utility>

#include "msplora/data/encode_conversations.h"
#include "tasks/causal_lm.h"
#include "tasks/list.h"

namespace msplora {
namespace {

/// What an assistant answers: a causal language model's loss on some of the tokens of conversations, prompts
/// with completions, or texts.
class InstructionTuning : public CausalLm {
 public:
  using CausalLm::CausalLm;

  EncodedDataset encode(const Dataset& rows, int threads) const override {
    if (!settings().tokenizer) {
      throw Error(ErrorCode::kUsage, "task",
                  "conversations cannot be encoded: the task was made without a tokenizer");
    }
    ConversationEncoding how;
    how.tokenizer = settings().tokenizer.get();
    how.chat_template = settings().chat_template.get();
    how.options = settings().chat;
    how.max_length = settings().max_length;
    return encode_conversations(rows, how, threads);
  }
};

}  // namespace

TaskKind sft_task() {
  return {"sft",
          "what an assistant answers: instruction tuning on conversations, prompts and texts",
          ModelTask::kCausalLm,
          LabelKind::kConversation,
          "CAUSAL_LM",
          [](TaskSettings settings) -> std::unique_ptr<Task> {
            return std::make_unique<InstructionTuning>(std::move(settings));
          }};
}

}  // namespace msplora
