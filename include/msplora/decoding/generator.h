#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/generation/beam_search.h"
#include "msplora/generation/options.h"
#include "msplora/models/model.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// A text to go on with.
struct GenerationRequest {
  std::string prompt = {};               // read with the special tokens that the tokenizer puts around a text
  std::vector<int32_t> prompt_ids = {};  // instead of a text, when not empty
  GenerationOptions options = {};        // without eos_token_id: the end tokens of the generator
  uint64_t number = 0;                   // tells the draws of requests with one seed apart
  bool wants_logprobs = false;
  /// Sees the text as soon as no token that follows can change it. Not called with beams.
  std::function<void(std::string_view)> on_text = {};
  /// Asked before every token; true ends the text.
  std::function<bool()> is_cancelled = {};
};

/// Longer prompts are refused before they are read: no model takes as many tokens.
inline constexpr size_t kMostPromptBytes = size_t{4} << 20;
/// Throws Error{kData} for a longer one.
void check_prompt_size(size_t bytes, const std::string& where);

enum class FinishReason {
  kEndToken,
  kStopString,
  kMaxNewTokens,
  kLongest,  // the model takes no more tokens
  kCancelled,
};
/// "end_token", "stop_string", "max_new_tokens", "context", "cancelled".
const char* finish_reason_name(FinishReason reason);

/// What became of a request.
struct Generation {
  size_t prompt_tokens = 0;
  std::vector<int32_t> tokens;  // made, the end token included
  std::string text;             // of them, without end token, and up to a stop string
  FinishReason finish_reason = FinishReason::kMaxNewTokens;
  std::vector<double> logprobs;   // of the tokens, of what the model says before any rule; where wanted
  std::vector<Hypothesis> beams;  // of a beam search, best first; tokens and text are those of the first
};

struct GeneratorOptions {
  int64_t max_batch = 16;        // texts that are written at a time; a beam counts as one
  int64_t prefill_tokens = 512;  // of prompts that are read in one pass, beside one token of each text
  /// Keeps what the model has read of the last text. A request that begins with the same tokens, as the next
  /// turn of a conversation does, goes on from there.
  bool keeps_last = false;
};

/// Has a causal language model write. Texts of different lengths and rules are written together: a text that
/// ends makes room for the next prompt (continuous batches), each token passes through the model once, and no
/// text depends on which others it is written with but for the rounding of products. Several threads may call
/// one, or several for one model, while the model stays as it is (models/model.h); each call has keys and
/// values of its own.
///
///     Generator generator(*model, Tokenizer::load(directory));
///     std::cout << generator.generate({.prompt = "The capital of France is"}).text;
class Generator {
 public:
  /// `tokenizer` may be null for requests with prompt_ids; texts are empty then. `end_tokens` end a text
  /// whose request names none. The model must outlive the generator. Throws Error{kUsage} for a model that is
  /// no causal language model.
  Generator(Model& model, std::shared_ptr<const Tokenizer> tokenizer, std::vector<int64_t> end_tokens = {},
            const GeneratorOptions& options = {});
  ~Generator();

  /// The tokens that the model would read of a request, `where` naming it in errors. Throws what generate
  /// throws of its prompt and options, so that one of many can be left out.
  std::vector<int32_t> prompt_of(const GenerationRequest& request, const std::string& where) const;

  /// Throws Error{kConfig} for options that contradict each other, Error{kData} for a prompt with ids that
  /// the model does not have, longer than it takes, or without tokens: an empty text is what the tokenizer
  /// puts around one, else its beginning token, and is refused where it has none.
  Generation generate(GenerationRequest request);

  /// All of them, in the order given. `on_done` sees each as it ends. All are checked before the first
  /// begins, and errors name the request by its place. Requests with the same prompt next to each other, as
  /// several texts of one prompt are, have it read once.
  std::vector<Generation> generate(
      std::vector<GenerationRequest> requests,
      const std::function<void(size_t index, const Generation& generation)>& on_done = {});

  /// Forgets what is kept of the last text, also of one that is being written; to be called when the model
  /// has changed (another adapter).
  void forget();
  /// Bytes of the keys and values that are kept between calls.
  int64_t cache_bytes() const;

  const std::vector<int64_t>& end_tokens() const;
  const Tokenizer* tokenizer() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace msplora
