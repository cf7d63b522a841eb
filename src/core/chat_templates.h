#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace msplora::detail {

/// The file of a model's directory that holds its chat template and goes before tokenizer_config.json.
inline constexpr const char* kChatTemplateFile = "chat_template.jinja";

/// The texts that `chat_template` of a tokenizer_config.json holds, by name: a list of {name, template}, or
/// one text, whose name is "default". Throws Error{kFormat} at `where` for anything else.
std::map<std::string, std::string> named_chat_templates(const nlohmann::json& given,
                                                        const std::string& where);

}  // namespace msplora::detail
