#include "msplora/templates/messages.h"

#include <algorithm>
#include <vector>

#include "msplora/core/dump_json.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kData, "", what);
}

constexpr const char* kWeight = "weight";

/// Whether these are parts, and not a list that a tool answered.
bool has_kinds(const Json& list) {
  return !list.empty() && std::all_of(list.begin(), list.end(), [](const Json& part) {
    return part.is_object() && part.contains("type") && part["type"].is_string();
  });
}

void check_parts(const Json& parts, const std::string& place) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Json& part = parts[i];
    const std::string at = place + "[" + std::to_string(i) + "]";
    const Json kind = part.is_object() ? part.value("type", Json()) : Json();
    if (kind.is_string() && kind != "text")
      refuse(at + ": a part of the kind " + json_excerpt(kind) +
             "; models read parts of the kind \"text\" alone");
    if (!kind.is_string() || !part.value("text", Json()).is_string())
      refuse(at + R"(: expected {"type": "text", "text": "..."}, found )" + json_excerpt(part));
  }
}

void check_weight(const Json& message, const std::string& place) {
  const Json weight = message.value(kWeight, Json());
  if (weight.is_null()) return;
  const bool is_learner = message["role"] == "assistant";
  const bool is_known = weight.is_number() && (weight == 0 || (is_learner && weight == 1));
  if (is_known) return;
  const std::string found = ", found " + json_excerpt(weight);
  refuse(place + ".weight: expected 0 or 1" +
         (is_learner ? found
                     : ", and 1 only of what the assistant says" + found + " of the role " +
                           json_excerpt(message["role"])));
}

/// Texts of parts, with line ends between them as vLLM and llama.cpp join them.
std::string text_of_parts(const Json& parts) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i)
    text += (i == 0 ? "" : "\n") + parts[i].at("text").get<std::string>();
  return text;
}

void check_message(const Json& message, const std::string& place) {
  const bool is_object = message.is_object();
  const Json* role = is_object && message.contains("role") ? &message["role"] : nullptr;
  const Json* content = is_object && message.contains("content") ? &message["content"] : nullptr;
  const bool calls_tools = is_object && message.contains("tool_calls") && !message["tool_calls"].is_null();
  const bool is_empty = content == nullptr || content->is_null();
  if (role == nullptr || (is_empty && !calls_tools)) {
    refuse(place + ": expected `role` and `content`, found " +
           (is_object ? json_keys(message) : json_excerpt(message)) +
           (content != nullptr && role != nullptr ? " with nothing as `content`" : ""));
  }
  if (!role->is_string()) refuse(place + ".role: expected a text, found " + json_excerpt(*role));
  check_weight(message, place);
  const bool may_be_object = *role == "tool";
  if (is_empty || content->is_string() || (may_be_object && content->is_object())) return;
  if (!content->is_array() || (content->empty() && !may_be_object))
    refuse(place + ".content: expected a text or a list of parts, found " + json_excerpt(*content));
  if (!may_be_object || has_kinds(*content)) check_parts(*content, place + ".content");
}

/// What roles are called everywhere. Others stand in the templates that know them.
const std::vector<std::string> kCommonRoles = {"assistant", "developer", "function",
                                               "system",    "tool",      "user"};

bool is_quoted_in(const std::string& source, const std::string& role) {
  return source.find("'" + role + "'") != std::string::npos ||
         source.find('"' + role + '"') != std::string::npos;
}

}  // namespace

void check_messages(const Json& messages, const std::string& key) {
  if (!messages.is_array())
    refuse("`" + key + "`: expected a list of messages, found " + json_excerpt(messages));
  for (size_t i = 0; i < messages.size(); ++i)
    check_message(messages[i], key + "[" + std::to_string(i) + "]");
}

void check_roles(const Json& messages, const ChatTemplate& chat_template) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string role = messages[i].at("role");
    if (std::find(kCommonRoles.begin(), kCommonRoles.end(), role) != kCommonRoles.end()) continue;
    if (is_quoted_in(chat_template.source(), role)) continue;
    std::string known;
    for (const std::string& one : kCommonRoles) known += (known.empty() ? "" : ", ") + one;
    throw Error(ErrorCode::kData, "",
                "messages[" + std::to_string(i) + "].role: expected one of " + known +
                    ", or one that the chat template names; found " + json_excerpt(messages[i]["role"]),
                did_you_mean(role, kCommonRoles));
  }
}

Json fitted_messages(const Json& messages, const ChatTemplate& chat_template) {
  Json fitted = messages;
  for (Json& message : fitted) {
    message.erase(kWeight);
    const auto content = message.find("content");
    if (content == message.end()) continue;
    if (!content->is_string() && !(content->is_array() && has_kinds(*content))) continue;
    const ContentForm form = chat_template.content_form(message.at("role"));
    if (content->is_array() && form == ContentForm::kTexts) {
      *content = text_of_parts(*content);
    } else if (content->is_string() && form == ContentForm::kParts) {
      *content = Json::array({{{"type", "text"}, {"text", *content}}});
    }
  }
  return fitted;
}

bool has_no_weight(const Json& message) {
  return message.value(kWeight, Json()) == 0;
}

Error error_of_row(const Error& error, const std::string& row, ErrorCode code) {
  const std::string within = error.where().empty() ? "" : error.where() + ": ";
  const bool is_stop = error.code() == ErrorCode::kInterrupted;
  return {is_stop ? error.code() : code, row, within + error.message(), error.hint()};
}

Json tools_of(const Json& given) {
  if (given.is_null()) return given;
  const Json tools = given.is_string() ? Json::parse(given.get_ref<const std::string&>(), nullptr,
                                                     /*allow_exceptions=*/false)
                                       : given;
  const bool is_list = tools.is_array() && std::all_of(tools.begin(), tools.end(),
                                                       [](const Json& tool) { return tool.is_object(); });
  if (!is_list) refuse("`tools`: expected a list of objects, found " + json_excerpt(given));
  return tools;
}

}  // namespace msplora
