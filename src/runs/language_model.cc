#include "msplora/runs/language_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "msplora/core/error.h"
#include "msplora/runs/model_files.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/target.h"
#include "msplora/templates/messages.h"

namespace msplora {
namespace fs = std::filesystem;

namespace {

at::ScalarType compute_dtype(const fs::path& path, const std::string& wanted) {
  if (wanted != "auto") return parse_dtype(wanted);
  return stored_dtype(path) == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
}

}  // namespace

LanguageModel::LanguageModel() = default;
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

LanguageModel LanguageModel::open(const fs::path& path, const LanguageModelOptions& options) {
  if (options.merge && options.adapters.size() != 1) {
    throw Error(ErrorCode::kUsage, "merge",
                fmt::format("expected one adapter, found {}", options.adapters.size()));
  }
  LanguageModel opened;
  const ModelConfig config = load_supported_config(path);
  ModelLoadOptions load;
  load.task = ModelTask::kCausalLm;
  load.compute_dtype = compute_dtype(path, options.dtype);
  load.device = options.device;
  ModelLoadReport report;
  opened.model_ = load_model(path, load, &report);
  if (!report.fresh.empty()) {
    throw Error(
        ErrorCode::kModel, path.string(),
        fmt::format("has no trained head for texts: {} would be random", fmt::join(report.fresh, ", ")),
        "is it a causal language model?");
  }
  opened.tokenizer_ = load_tokenizer(path, config);
  const auto read_template = [&](const std::string& name, const ChatDataOptions& chat) {
    Written& written = opened.written_[name];
    try {
      written.chat_template = chat_template_of(chat, path);
    } catch (const Error& problem) {
      written.problem = problem;
    }
  };
  read_template("", ChatDataOptions{});
  opened.defaults_ = generation_defaults(path, config, *opened.tokenizer_);
  const AdapterTarget target =
      options.adapters.empty() ? AdapterTarget{} : target_of(*opened.model_, path.string());
  for (const auto& [name, directory] : options.adapters) {
    auto adapter = load_adapter(directory, target);
    adapter->detach();  // heads and biases that it has trained are the base's again
    opened.adapters_[name] = std::move(adapter);
    const std::optional<TaskFacts> facts = load_task_facts(directory);
    if (facts && !facts->data.chat.uses_models_template()) read_template(name, facts->data.chat);
  }
  opened.generator_ = std::make_unique<Generator>(*opened.model_, opened.tokenizer_,
                                                  opened.defaults_.eos_token_id, options.generator);
  opened.take_chat_template();
  if (options.adapters.size() == 1) opened.use(options.adapters.begin()->first);
  if (options.merge) {
    merge_adapter(*opened.adapters_.begin()->second, load.compute_dtype);
    opened.adapters_.clear();
  }
  return opened;
}

void LanguageModel::use(const std::string& name) {
  const bool is_merged = adapters_.empty() && !adapter_.empty();
  if (name == adapter_) return;
  if (is_merged) {
    throw Error(ErrorCode::kUsage, "adapter", fmt::format("`{}` is merged into the weights", adapter_),
                "open the model without merging to choose");
  }
  if (!name.empty() && !adapters_.contains(name)) {
    throw Error(ErrorCode::kUsage, "adapter",
                fmt::format("no `{}` among {}", name,
                            adapters_.empty() ? "none" : fmt::format("{}", fmt::join(adapters(), ", "))),
                did_you_mean(name, adapters()));
  }
  if (!adapter_.empty()) adapters_.at(adapter_)->detach();
  adapter_ = name;
  if (!name.empty()) adapters_.at(name)->attach();
  take_chat_template();
  generator_->forget();
}

void LanguageModel::take_chat_template() {
  if (is_template_chosen_) return;
  const Written& written = written_.at(written_.contains(adapter_) ? adapter_ : "");
  chat_template_ = written.chat_template;
  chat_template_problem_ = written.problem;
}

void LanguageModel::set_chat_template(const std::string& name_or_file) {
  std::map<std::string, std::string> tokens;
  is_template_chosen_ = true;
  if (chat_template_) tokens = chat_template_->special_tokens();
  chat_template_ = std::make_shared<const ChatTemplate>(named_chat_template(name_or_file, std::move(tokens)));
}

GenerationRequest chat_request(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                               const nlohmann::ordered_json& messages, ChatOptions options) {
  check_messages(messages);
  check_roles(messages, chat_template);
  options.tools = tools_of(options.tools);
  options.add_generation_prompt = !options.continue_final_message;
  // The template writes the special tokens itself.
  EncodeOptions encode;
  encode.add_special_tokens = false;
  GenerationRequest request;
  request.prompt = chat_template.render(fitted_messages(messages, chat_template), options).text;
  check_prompt_size(request.prompt.size(), "the conversation");
  request.prompt_ids = tokenizer.encode({request.prompt, {}}, encode).ids;
  return request;
}

GenerationRequest LanguageModel::request_for(const nlohmann::ordered_json& messages,
                                             ChatOptions options) const {
  if (!chat_template_ && chat_template_problem_) throw *chat_template_problem_;
  if (!chat_template_) {
    throw Error(ErrorCode::kModel, "chat template", "the model's files have none",
                fmt::format("name one of {}, or a file", fmt::join(ChatTemplate::names(), ", ")));
  }
  GenerationRequest request = chat_request(*chat_template_, *tokenizer_, messages, std::move(options));
  request.options = defaults_;
  return request;
}

std::vector<std::string> LanguageModel::adapters() const {
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters_) names.push_back(name);
  return names;
}

}  // namespace msplora
