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
  const bool may_be_object = *role == "tool";
  if (is_empty || content->is_string() || content->is_array() || (may_be_object && content->is_object()))
    return;
  refuse(place + ".content: expected a text or a list of parts, found " + json_excerpt(*content));
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
