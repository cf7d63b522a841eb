#include "msplora/templates/chat_template.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "core/chat_templates.h"
#include "core/strict_json.h"
#include "msplora/core/dump_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/file.h"
#include "templates/text.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kTag = "CONTINUE_FINAL_MESSAGE_TAG";

/// A conversation in which this role says something last, or first where that is its place.
Json conversation_with(const std::string& role, const Json& content, const Json& question) {
  const Json asked = {{"role", "user"}, {"content", question}};
  Json said = {{"role", role}, {"content", content}};
  if (role == "user") return Json::array({said});
  if (role == "assistant") return Json::array({asked, said});
  if (role != "tool" && role != "function") return Json::array({said, asked});
  constexpr const char* kId = "abcdefghi";  // some templates want nine letters
  const Json call = {
      {"id", kId}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", Json::object()}}}};
  said["name"] = "f";
  said["tool_call_id"] = kId;
  return Json::array(
      {asked, {{"role", "assistant"}, {"content", ""}, {"tool_calls", Json::array({call})}}, said});
}

/// Keys with null are left out; what a model thought has several names.
Json prepared(const Json& message) {
  Json kept = Json::object();
  for (const auto& [key, value] : message.items()) {
    if (!value.is_null()) kept[key] = value;
  }
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!kept.contains(name)) continue;
    const Json thought = kept[name];
    kept["reasoning_content"] = thought;
    if (!kept.contains("thinking")) kept["thinking"] = thought;
    break;
  }
  return kept;
}

/// The text of the last message that is gone on with: its content, or the last part of text in it.
std::string* last_text(Json& messages) {
  if (messages.empty() || !messages.back().contains("content")) return nullptr;
  Json& content = messages.back()["content"];
  if (content.is_string()) return content.get_ptr<std::string*>();
  if (!content.is_array()) return nullptr;
  for (size_t i = content.size(); i-- > 0;) {
    if (content[i].is_object() && content[i].contains("text") && content[i]["text"].is_string())
      return content[i]["text"].get_ptr<std::string*>();
  }
  return nullptr;
}

using SpecialTokens = std::map<std::string, std::string>;

/// An empty object where there is no such file. Keys in any order: tokenizer_config.json may have thousands.
nlohmann::json read_object(const fs::path& file) {
  std::error_code code;
  if (!fs::exists(file, code)) return nlohmann::json::object();
  auto json = detail::parse_strict_json(read_file(file), file.string());
  if (!json.is_object()) throw Error(ErrorCode::kFormat, file.string(), "expected a JSON object");
  return json;
}

/// "bos_token": "<s>", or {"content": "<s>", ...}.
void add_special_tokens(const nlohmann::json& from, SpecialTokens& tokens) {
  for (const auto& [key, value] : from.items()) {
    if (!key.ends_with("_token")) continue;
    if (value.is_string()) tokens[key] = value;
    if (value.is_object() && value.contains("content") && value["content"].is_string())
      tokens[key] = value["content"];
  }
}

/// A template, or several with names.
std::string chosen_source(const nlohmann::json& given, bool has_tools, const std::string& where) {
  const auto by_name = detail::named_chat_templates(given, where + ": chat_template");
  if (has_tools && by_name.contains("tool_use")) return by_name.at("tool_use");
  if (by_name.contains("default")) return by_name.at("default");
  throw Error(ErrorCode::kFormat, where + ": chat_template",
              "expected a text, or a list of {name, template} with one called `default`");
}

/// Of a directory, whose tokenizer_config.json is read already.
SpecialTokens directory_special_tokens(const fs::path& directory, const nlohmann::json& tokenizer_config) {
  SpecialTokens tokens;
  add_special_tokens(read_object(directory / "special_tokens_map.json"), tokens);
  add_special_tokens(tokenizer_config, tokens);
  return tokens;
}

/// Tokens by role, of a GGUF file.
SpecialTokens gguf_special_tokens(const GgufFile& file) {
  SpecialTokens tokens;
  const auto texts = file.texts(gguf_key::kTokens);
  for (const auto& [name, role] :
       {std::pair("bos_token", gguf_key::kBosId), std::pair("eos_token", gguf_key::kEosId),
        std::pair("unk_token", gguf_key::kUnknownId), std::pair("pad_token", gguf_key::kPaddingId)}) {
    const auto id = file.integer(role);
    if (!id || !texts) continue;
    if (*id < 0 || *id >= static_cast<int64_t>(texts->size()))
      file.fail(role,
                "expected an id below " + std::to_string(texts->size()) + ", found " + std::to_string(*id));
    tokens[name] = (*texts)[static_cast<size_t>(*id)];
  }
  return tokens;
}

/// Files hold one without a name, and others with names, of which `tool_use` counts here.
std::optional<ChatTemplate> template_of_gguf(const fs::path& path, bool has_tools) {
  const auto file = GgufFile::open(path);
  std::string key = gguf_key::kChatTemplate;
  if (has_tools && file->contains(key + ".tool_use")) key += ".tool_use";
  const auto source = file->text(key);
  if (!source) return std::nullopt;
  return ChatTemplate(std::string(*source), gguf_special_tokens(*file), path.string() + ": " + key);
}

}  // namespace

struct ChatTemplate::Forms {
  std::mutex mutex;
  std::map<std::string, ContentForm> of_role;
};

ChatTemplate::ChatTemplate(std::string source, std::map<std::string, std::string> special_tokens,
                           std::string name)
    : template_(std::move(source), name),
      special_tokens_(std::move(special_tokens)),
      name_(std::move(name)),
      forms_(std::make_shared<Forms>()) {}

std::optional<ChatTemplate> ChatTemplate::of_model(const fs::path& directory, bool has_tools) {
  if (is_gguf_path(directory)) return template_of_gguf(directory, has_tools);
  const fs::path config_file = directory / "tokenizer_config.json";
  const fs::path file = directory / detail::kChatTemplateFile;
  const nlohmann::json config = read_object(config_file);
  std::error_code code;
  if (fs::exists(file, code))
    return ChatTemplate(read_file(file), directory_special_tokens(directory, config), file.string());
  const auto given = config.find("chat_template");
  if (given == config.end() || given->is_null()) return std::nullopt;
  return ChatTemplate(chosen_source(*given, has_tools, config_file.string()),
                      directory_special_tokens(directory, config), config_file.string() + ": chat_template");
}

std::map<std::string, std::string> ChatTemplate::special_tokens_of(const fs::path& directory) {
  if (is_gguf_path(directory)) return gguf_special_tokens(*GgufFile::open(directory));
  return directory_special_tokens(directory, read_object(directory / "tokenizer_config.json"));
}

bool ChatTemplate::shows(const std::string& role, const Json& content,
                         const std::vector<std::string>& wanted) const {
  const Json question = role != "user" && content_form("user") == ContentForm::kParts
                            ? Json::array({{{"type", "text"}, {"text", "u"}}})
                            : Json("u");
  try {
    const std::string text = render(conversation_with(role, content, question)).text;
    return std::all_of(wanted.begin(), wanted.end(),
                       [&](const std::string& one) { return text.find(one) != std::string::npos; });
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInterrupted) throw;
    return false;
  }
}

ContentForm ChatTemplate::content_form(const std::string& role) const {
  {
    const std::lock_guard lock(forms_->mutex);
    if (const auto found = forms_->of_role.find(role); found != forms_->of_role.end()) return found->second;
  }
  // A list that is printed as Python prints it has its line ends written out.
  const std::string first = "q'1\nz", second = "q'2\nz";
  const Json parts = Json::array({{{"type", "text"}, {"text", first}}, {{"type", "text"}, {"text", second}}});
  ContentForm form = ContentForm::kTexts;
  if (shows(role, parts, {first, second}))
    form = shows(role, "qz", {"qz"}) ? ContentForm::kBoth : ContentForm::kParts;
  const std::lock_guard lock(forms_->mutex);
  return forms_->of_role[role] = form;
}

RenderedText ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  if (!messages.is_array()) throw Error(ErrorCode::kData, name_, "expected a list of messages");
  Json turns = Json::array();
  for (const Json& message : messages) {
    if (!message.is_object())
      throw Error(ErrorCode::kData, name_,
                  "expected messages with `role` and `content`, found " + json_excerpt(message));
    turns.push_back(prepared(message));
  }
  std::string continued;
  if (options.continue_final_message) {
    if (options.add_generation_prompt)
      throw Error(ErrorCode::kUsage, name_, "a message is gone on with, or a new one begun, not both");
    std::string* text = last_text(turns);
    if (text == nullptr) throw Error(ErrorCode::kData, name_, "the last message has no text to go on with");
    continued = *text;
    *text += std::string(kTag) + " ";
  }
  Json variables = options.variables;
  for (const auto& [token, text] : special_tokens_) variables[token] = text;
  variables["messages"] = std::move(turns);
  variables["tools"] = options.tools;
  variables["documents"] = variables.value("documents", Json());
  variables["add_generation_prompt"] = options.add_generation_prompt;
  RenderedText rendered = template_.render(variables, options.now);
  if (!options.continue_final_message) return rendered;

  const size_t at = rendered.text.rfind(kTag);
  if (at == std::string::npos ||
      rendered.text.find(templates::stripped(continued, true, true)) == std::string::npos) {
    throw Error(ErrorCode::kData, name_,
                "does not show the text of the last message, which cannot be gone on with");
  }
  // Where the template trimmed the text, its end goes too.
  const bool is_trimmed = rendered.text.compare(at + std::string(kTag).size(), 1, " ") != 0;
  rendered.text.resize(at);
  if (is_trimmed) rendered.text = std::string(templates::stripped(rendered.text, false, true));
  std::erase_if(rendered.generated, [&](const auto& span) { return span.first >= rendered.text.size(); });
  for (auto& span : rendered.generated) span.second = std::min(span.second, rendered.text.size());
  return rendered;
}

}  // namespace msplora
