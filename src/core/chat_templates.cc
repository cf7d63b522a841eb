#include "core/chat_templates.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "core/strict_json.h"
#include "msplora/core/error.h"

namespace msplora::detail {

std::map<std::string, std::string> named_chat_templates(const nlohmann::json& given,
                                                        const std::string& where) {
  if (given.is_string()) return {{"default", given.get<std::string>()}};
  const auto refuse = [&](const nlohmann::json& found) {
    throw Error(ErrorCode::kFormat, where,
                "expected a text, or a list of {name, template}, found " + json_excerpt(found));
  };
  if (!given.is_array()) refuse(given);
  std::map<std::string, std::string> by_name;
  for (const auto& one : given) {
    const auto text = [&](const char* key) {
      const auto found = one.is_object() ? one.find(key) : one.end();
      if (found == one.end() || !found->is_string()) refuse(one);
      return found->get<std::string>();
    };
    by_name[text("name")] = text("template");
  }
  return by_name;
}

}  // namespace msplora::detail
