#pragma once

#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/templates/template.h"

namespace msplora {

/// How a conversation is rendered.
struct ChatOptions {
  /// Ends with what comes before an answer of the assistant.
  bool add_generation_prompt = false;
  /// Ends within the last message, which the model goes on with.
  bool continue_final_message = false;
  nlohmann::ordered_json tools = nullptr;                               // null or a list of JSON schemas
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();  // more of them: enable_thinking ...
  std::time_t now = std::time(nullptr);
};

/// How a template reads what somebody says.
enum class ContentForm {
  kTexts,  // a text; of a list of parts it makes nothing, or prints it as Python prints lists
  kParts,  // a list of {"type": "text", "text": ...} alone
  kBoth,
};

/// Turns conversations into the text that a model was trained on, as transformers' apply_chat_template does.
/// What it gives is to be tokenized without special tokens: the template writes them itself.
class ChatTemplate {
 public:
  /// `special_tokens` are variables of the template: {"bos_token": "<s>", ...}.
  explicit ChatTemplate(std::string source, std::map<std::string, std::string> special_tokens = {},
                        std::string name = "chat template");

  /// That of a model directory: chat_template.jinja, else tokenizer_config.json; of several the one for tools
  /// where `has_tools`, else the default. Or that of a GGUF file. Nothing where there is none. Throws
  /// Error{kFormat} for damaged files.
  static std::optional<ChatTemplate> of_model(const std::filesystem::path& directory, bool has_tools = false);

  /// The special tokens that the files of a model directory name, as variables of templates.
  static std::map<std::string, std::string> special_tokens_of(const std::filesystem::path& directory);

  /// One of those that are known by name. All of them mark what the assistant says. Throws Error{kUsage} with
  /// the nearest name.
  static ChatTemplate named(const std::string& name, std::map<std::string, std::string> special_tokens = {});
  static std::vector<std::string> names();

  /// `messages` is a list of {"role": ..., "content": ..., ...}. What is odd in them is the template's
  /// affair, as in transformers; who takes them from a user looks at them first (messages.h). Throws as
  /// Template::render, and Error{kData} for what is no list of objects.
  RenderedText render(const nlohmann::ordered_json& messages, const ChatOptions& options = {}) const;

  /// What it makes of the content of this role's messages, found by rendering a short conversation, once.
  /// kTexts also where it shows neither form.
  ContentForm content_form(const std::string& role) const;

  const std::string& source() const { return template_.source(); }
  const std::map<std::string, std::string>& special_tokens() const { return special_tokens_; }

 private:
  struct Forms;

  bool shows(const std::string& role, const nlohmann::ordered_json& content,
             const std::vector<std::string>& wanted) const;

  Template template_;
  std::map<std::string, std::string> special_tokens_;
  std::string name_;
  std::shared_ptr<Forms> forms_;  // found so far
};

}  // namespace msplora
