#include "core/strict_json.h"

#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "msplora/core/error.h"

namespace msplora::detail {

using nlohmann::json;

namespace {

/// The reason within the library's message: "... - invalid string: surrogate ...; last read: '...'".
std::string reason_of(std::string_view what) {
  constexpr size_t kLongest = 120;
  const size_t bracket = what.find("] "), dash = what.find(" - ");
  const size_t begin = dash != std::string_view::npos ? dash + 3 : bracket + 2;
  if (begin > what.size() || (dash == std::string_view::npos && bracket == std::string_view::npos)) return "";
  const std::string_view reason = what.substr(begin, what.find("; last read") - begin);
  return std::string(reason.substr(0, kLongest));
}

/// Follows the events of a parser.
template <class Json>
class StrictCheck {
 public:
  StrictCheck(const std::string& where, const JsonRules& rules) : where_(where), rules_(rules) {}

  bool operator()(int depth, typename Json::parse_event_t event, Json& value) {
    using Event = typename Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= rules_.max_depth)
        fail(fmt::format("expected JSON nested at most {} levels deep", rules_.max_depth));
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = value.template get_ref<const std::string&>();
      if (!keys_.back().insert(key).second)
        fail(fmt::format("the key `{}` appears twice in one object", key));
      if (keys_.back().size() > rules_.most_keys)
        fail(fmt::format("an object has more than {} keys", rules_.most_keys));
      if (depth == 1) outermost_ = key;
    }
    return true;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(rules_.code, outermost_.empty() ? where_ : where_ + ": " + outermost_, problem, rules_.hint);
  }

  const std::string& where_;
  const JsonRules& rules_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects around
  std::string outermost_;
};

}  // namespace

template <class Json>
Json parse_strict(std::string_view text, const std::string& where, const JsonRules& rules) {
  if (const size_t zero = find_zero_byte(text); zero != std::string_view::npos) {
    throw Error(rules.code, where, fmt::format("expected JSON, found a zero byte at position {}", zero),
                rules.hint);
  }
  StrictCheck<Json> check(where, rules);
  try {
    return Json::parse(text.begin(), text.end(), std::ref(check));
  } catch (const typename Json::parse_error& error) {
    const std::string found =
        text.empty() ? "nothing"
        : error.byte > text.size()
            ? fmt::format("an end at byte {}: it is cut short", text.size())
            : fmt::format("a fault at byte {}: {}", error.byte, reason_of(error.what()));
    throw Error(rules.code, where, "expected JSON, found " + found, rules.hint);
  } catch (const typename Json::exception& error) {
    throw Error(rules.code, where, "expected JSON, found a fault: " + reason_of(error.what()), rules.hint);
  }
}

template json parse_strict<json>(std::string_view, const std::string&, const JsonRules&);
template nlohmann::ordered_json parse_strict<nlohmann::ordered_json>(std::string_view, const std::string&,
                                                                     const JsonRules&);

json parse_strict_json(std::string_view text, const std::string& where, int max_depth,
                       const std::string& hint) {
  JsonRules rules;
  rules.max_depth = max_depth;
  rules.hint = hint;
  return parse_strict<json>(text, where, rules);
}

std::optional<json> try_strict_json(std::string_view text) {
  try {
    return parse_strict_json(text, {});
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string json_excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) {
    text.resize(77);
    text.append("...");
  }
  return text;
}

}  // namespace msplora::detail
