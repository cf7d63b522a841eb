#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/decoding/generator.h"
#include "msplora/models/model.h"
#include "msplora/templates/chat_template.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// How a causal language model is opened.
struct LanguageModelOptions {
  /// Adapters by the names that `use` takes.
  std::map<std::string, std::filesystem::path> adapters = {};
  /// Adds the adapter, which must be the only one, to the weights.
  bool merge = false;
  /// Of activations and frozen weights; "auto": bfloat16 where most weights are stored in it, else float32.
  std::string dtype = "auto";
  at::Device device = at::kCPU;
  GeneratorOptions generator = {};
};

/// A model that writes, with none, one or several adapters of which one acts at a time, with the heads,
/// biases and saved modules of its own.
///
///     auto model = msplora::LanguageModel::open("models/SmolLM2", {.adapters = {{"mine",
///     "output/adapter"}}}); model.use("mine"); std::cout << model.generate("Once upon a time").text << "\n";
///
/// Several threads may call generate and the const functions at a time, but nothing while one is in `use` or
/// set_chat_template.
class LanguageModel {
 public:
  /// Throws Error{kModel} when the files hold no causal language model; else as load_model, load_adapter.
  static LanguageModel open(const std::filesystem::path& path, const LanguageModelOptions& options = {});
  LanguageModel(LanguageModel&&) noexcept;
  ~LanguageModel();

  /// The adapter that acts from now on; "": the base alone. One that was merged always acts. After opening it
  /// is the only adapter, if there is one. Throws Error{kUsage} with the nearest name for an unknown one.
  void use(const std::string& adapter);
  /// Names of `use`, without "".
  std::vector<std::string> adapters() const;
  const std::string& adapter() const { return adapter_; }

  /// How conversations are written: as those that the adapter in use was trained on, else as the model's own
  /// files say; null where they do not, or say it in a way that cannot be read (`chat_template_problem`),
  /// which only conversations need.
  const std::shared_ptr<const ChatTemplate>& chat_template() const { return chat_template_; }
  const std::optional<Error>& chat_template_problem() const { return chat_template_problem_; }
  /// Takes another one, whatever adapter is in use: a name that ChatTemplate::named knows, or a file that
  /// holds a template.
  void set_chat_template(const std::string& name_or_file);
  /// The request for what the assistant answers to these messages, with the defaults. Throws Error{kModel}
  /// where there is no template, its problem where it cannot be read, else as chat_request.
  GenerationRequest request_for(const nlohmann::ordered_json& messages, ChatOptions options = {}) const;

  /// What generation_config.json beside the model asks for; without one, greedy.
  const GenerationOptions& defaults() const { return defaults_; }
  Generation generate(const std::string& prompt) {
    return generate({.prompt = prompt, .options = defaults_});
  }
  Generation generate(GenerationRequest request) { return generator_->generate(std::move(request)); }
  Generator& generator() { return *generator_; }

  Model& model() { return *model_; }
  std::shared_ptr<const Tokenizer> tokenizer() const { return tokenizer_; }

 private:
  LanguageModel();
  void take_chat_template();

  struct Written {
    std::shared_ptr<const ChatTemplate> chat_template;
    std::optional<Error> problem;
  };

  GenerationOptions defaults_;
  std::shared_ptr<const ChatTemplate> chat_template_;
  std::optional<Error> chat_template_problem_;
  bool is_template_chosen_ = false;
  std::map<std::string, Written> written_;  // by adapters that say how; "": by the model
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::map<std::string, std::unique_ptr<Adapter>> adapters_;
  std::string adapter_;
  std::unique_ptr<Generator> generator_;
};

/// The request for what the assistant answers to `messages`, or goes on with. Throws as check_messages,
/// check_roles, tools_of and ChatTemplate::render.
GenerationRequest chat_request(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                               const nlohmann::ordered_json& messages, ChatOptions options = {});

/// The options that generation_config.json in `directory` gives, with the model's own defaults where it gives
/// none. Of eos_token_id all that generation_config.json, config.json and the tokenizer name. Throws
/// Error{kFormat} naming file and key for values of the wrong kind.
GenerationOptions generation_defaults(const std::filesystem::path& directory, const ModelConfig& config,
                                      const Tokenizer& tokenizer);

/// Takes values over that a user gives under the names of GenerationOptions, as read_json does, and what they
/// imply: temperature, top_k, top_p, min_p and typical_p ask for drawing unless do_sample is given too,
/// temperature 0, do_sample false and beams for none. One string will do for `stop`, and one id for
/// eos_token_id.
void override_generation(GenerationOptions& options, const nlohmann::json& values, const std::string& where,
                         ErrorList& errors);

}  // namespace msplora
