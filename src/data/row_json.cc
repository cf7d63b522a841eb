#include "msplora/data/row_json.h"

#include "core/strict_json.h"

namespace msplora {

nlohmann::ordered_json parse_row(const std::string& text, const std::string& where, size_t most_bytes) {
  if (text.size() > most_bytes) check_row_size(text.size(), where);
  detail::JsonRules rules;
  rules.code = ErrorCode::kData;
  rules.most_keys = 4096;  // objects that keep order take time by the square of their keys
  return detail::parse_strict<nlohmann::ordered_json>(text, where, rules);
}

}  // namespace msplora
