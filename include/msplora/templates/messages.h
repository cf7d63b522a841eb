#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "msplora/core/error.h"
#include "msplora/templates/chat_template.h"

namespace msplora {

/// Whether this is a conversation: a list of {"role": a text, "content": a text or a list of parts, ...}.
/// Parts are texts, {"type": "text", "text": "..."}; others, as images, are refused by their kind. A message
/// that calls tools (`tool_calls`) needs no content, and what a tool answers may be an object or any list
/// too. `weight` is 0 or 1: whether what the assistant says there is learned; others have nothing to be
/// learned. Throws Error{kData} that names the message by its place in `key` and says what was found.
void check_messages(const nlohmann::ordered_json& messages, const std::string& key = "messages");

/// Whether the roles of a conversation are usual ones (assistant, developer, function, system, tool, user) or
/// stand in the template. One that writes whatever role it is given hides a slip of the pen, and what such a
/// message says would not be learned. Throws Error{kData} with the place and the nearest role.
void check_roles(const nlohmann::ordered_json& messages, const ChatTemplate& chat_template);

/// The messages in the form that the template reads: parts as one text, with line ends between them, where it
/// wants texts, and a text as a part where it wants those. What training alone looks at (`weight`) is left
/// out.
nlohmann::ordered_json fitted_messages(const nlohmann::ordered_json& messages,
                                       const ChatTemplate& chat_template);

/// Whether `weight` says that a message is not learned.
bool has_no_weight(const nlohmann::ordered_json& message);

/// Tools as a list of objects (JSON schemas), or null. Data sets also keep the list as a text of JSON.
/// Throws Error{kData} for anything else.
nlohmann::ordered_json tools_of(const nlohmann::ordered_json& given);

/// What is wrong with a conversation as an error of the row that it stands in (file and line). A place within
/// the template stays, in the message; Error{kInterrupted} stays that.
Error error_of_row(const Error& error, const std::string& row, ErrorCode code = ErrorCode::kData);

}  // namespace msplora
