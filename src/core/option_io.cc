#include "msplora/core/option_io.h"
#include "msplora/core/dtype_names.h"
#include "msplora/core/dump_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {
namespace {

using Kind = OptionNode::Kind;

std::string not_a(const std::string& expected, const OptionNode& node) {
  return fmt::format("expected {}, found {}", expected, detail::describe_node(node));
}

std::string out_of_range(const OptionRange& range, const std::string& text) {
  return fmt::format("expected {}, found {}", detail::range_text(range), text);
}

bool in_range(const OptionRange& range, double value) {
  if (range.min && (range.min_excluded ? value <= *range.min : value < *range.min)) return false;
  if (range.max && (range.max_excluded ? value >= *range.max : value > *range.max)) return false;
  return true;
}

/// The whole of `text` as a number; YAML allows a leading plus, from_chars does not.
template <class T>
bool parse_number(std::string_view text, T& value) {
  if (text.size() > 1 && text.front() == '+' && text[1] != '-') text.remove_prefix(1);
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool is_number(const std::string& text) {
  double value = 0.0;
  return parse_number(text, value);
}

/// Plain words need no quotes; anything that YAML could read as another type or as syntax does.
bool is_plain(const std::string& text) {
  if (text.empty() || is_number(text)) return false;
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) {
    if (text.size() == std::string_view(word).size() &&
        std::equal(text.begin(), text.end(), word, [](char a, char b) { return std::tolower(a) == b; })) {
      return false;
    }
  }
  const auto is_safe = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '/';
  };
  return std::all_of(text.begin(), text.end(), is_safe) &&
         std::isalnum(static_cast<unsigned char>(text.front())) != 0;
}

std::string quoted(const std::string& text) {
  if (is_plain(text)) return text;
  return dump_json(nlohmann::json(text));
}

void write_map(const nlohmann::ordered_json& json, const std::string& indent, std::string& out) {
  for (const auto& [key, value] : json.items()) {
    out += indent + quoted(key) + ":";
    if (value.is_object() && !value.empty()) {
      out += "\n";
      write_map(value, indent + "  ", out);
    } else {
      out += fmt::format(" {}\n", detail::to_yaml_value(value));
    }
  }
}

/// Text inside a Markdown table cell.
std::string cell(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '|') safe += '\\';
    safe += c;
  }
  return safe;
}

std::string section_of(const std::string& key) {
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? std::string() : key.substr(0, dot);
}

}  // namespace

const OptionNode* OptionNode::find(const std::string& name) const {
  for (const auto& [key, value] : entries) {
    if (key == name) return &value;
  }
  return nullptr;
}

namespace detail {

std::string describe_node(const OptionNode& node) {
  switch (node.kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kScalar:
      return fmt::format("{}`{}`", node.quoted ? "the text " : "", node.text);
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a group of keys";
  }
  return "?";
}

std::string range_text(const OptionRange& range) {
  if (!range.choices.empty()) {
    std::string text;
    for (size_t i = 0; i < range.choices.size(); ++i) {
      if (i > 0) text += i + 1 == range.choices.size() ? " or " : ", ";
      text += fmt::format("`{}`", range.choices[i]);
    }
    return text;
  }
  if (range.min && range.max) {
    return fmt::format("a number in {}{}, {}{}", range.min_excluded ? "(" : "[", *range.min, *range.max,
                       range.max_excluded ? ")" : "]");
  }
  if (range.min) return fmt::format("{} {}", range.min_excluded ? "above" : "at least", *range.min);
  if (range.max) return fmt::format("{} {}", range.max_excluded ? "below" : "at most", *range.max);
  return "";
}

std::string read_value(const OptionNode& node, const OptionRange&, bool& value) {
  const bool is_word = node.kind == Kind::kScalar && !node.quoted;
  if (is_word && (node.text == "true" || node.text == "True")) {
    value = true;
  } else if (is_word && (node.text == "false" || node.text == "False")) {
    value = false;
  } else {
    return not_a("true or false", node);
  }
  return "";
}

std::string read_value(const OptionNode& node, const OptionRange& range, int64_t& value) {
  if (node.kind != Kind::kScalar || node.quoted) return not_a("an integer", node);
  if (!parse_number(node.text, value)) {
    // 1e5 and 100.0 are integers too; beyond 2^53 a double no longer is one for certain.
    double number = 0.0;
    if (!parse_number(node.text, number) || std::trunc(number) != number) return not_a("an integer", node);
    if (std::abs(number) > 9007199254740992.0) {
      const auto limit =
          number > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
      return not_a(
          fmt::format("an integer, written in digits, of {} {}", number > 0 ? "at most" : "at least", limit),
          node);
    }
    value = static_cast<int64_t>(number);
  }
  return in_range(range, static_cast<double>(value)) ? "" : out_of_range(range, node.text);
}

std::string read_value(const OptionNode& node, const OptionRange& range, double& value) {
  if (node.kind != Kind::kScalar || node.quoted || !parse_number(node.text, value) || !std::isfinite(value)) {
    return not_a("a number", node);
  }
  return in_range(range, value) ? "" : out_of_range(range, node.text);
}

std::string read_value(const OptionNode& node, const OptionRange& range, std::string& value) {
  if (node.kind != Kind::kScalar) return not_a("text", node);
  value = node.text;
  const auto& choices = range.choices;
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) return "";
  if (const std::string usual = usual_dtype_name(value);
      std::find(choices.begin(), choices.end(), usual) != choices.end()) {
    value = usual;
    return "";
  }
  const std::string nearest = did_you_mean(value, choices);
  return out_of_range(range, fmt::format("`{}`", value)) +
         (nearest.empty() ? "" : fmt::format("; {}", nearest));
}

bool read_value(const nlohmann::json& json, bool& value) {
  if (json.is_boolean()) json.get_to(value);
  return json.is_boolean();
}

bool read_value(const nlohmann::json& json, int64_t& value) {
  constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const bool fits = json.is_number_unsigned() ? json.get<uint64_t>() <= kLargest : json.is_number_integer();
  if (fits) json.get_to(value);
  return fits;
}

bool read_value(const nlohmann::json& json, double& value) {
  if (json.is_number()) json.get_to(value);
  return json.is_number();
}

bool read_value(const nlohmann::json& json, std::string& value) {
  if (json.is_string()) json.get_to(value);
  return json.is_string();
}

nlohmann::json nested(const std::string& path, const nlohmann::json& value) {
  const size_t dot = path.find('.');
  if (dot == std::string::npos) return {{path, value}};
  return {{path.substr(0, dot), nested(path.substr(dot + 1), value)}};
}

void JsonReader::report_unknown_keys() {
  for (const auto& [name, value] : from_.items()) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    const std::string nearest = did_you_mean(name, known_);
    errors_.add(where_ + "." + name, "unknown option",
                nearest.empty() ? "the file may come from a newer version" : nearest);
  }
}

void RangeChecker::check(const std::string& key, int64_t value, const OptionRange& range) {
  if (in_range(range, static_cast<double>(value))) return;
  errors_.add(key, fmt::format("must be {}, but is {}", range_text(range), value));
}

void RangeChecker::check(const std::string& key, double value, const OptionRange& range) {
  if (std::isfinite(value) && in_range(range, value)) return;
  const std::string expected = range_text(range);
  errors_.add(key, fmt::format("must be {}, but is {}", expected.empty() ? "finite" : expected, value));
}

void RangeChecker::check(const std::string& key, const std::string& value, const OptionRange& range) {
  const auto& choices = range.choices;
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) return;
  errors_.add(key, fmt::format("must be {}, but is `{}`", range_text(range), value),
              did_you_mean(value, choices));
}

std::vector<std::pair<std::string, const OptionNode*>> map_entries(const OptionNode& node) {
  std::vector<std::pair<std::string, const OptionNode*>> entries;
  for (const auto& [key, value] : node.entries) {
    if (!value.is_path) {
      entries.emplace_back(key, &value);
      continue;
    }
    for (const auto& [rest, inner] : map_entries(value)) entries.emplace_back(key + "." + rest, inner);
  }
  return entries;
}

std::string to_yaml_value(const nlohmann::ordered_json& json) {
  if (json.is_string()) return quoted(json.get<std::string>());
  if (json.is_number_float()) return fmt::format("{}", json.get<double>());
  if (json.is_array()) {
    std::string text;
    for (const auto& item : json) text += (text.empty() ? "" : ", ") + to_yaml_value(item);
    return fmt::format("[{}]", text);
  }
  if (json.is_object()) {
    std::string text;
    for (const auto& [key, value] : json.items()) {
      text += (text.empty() ? "" : ", ") + quoted(key) + ": " + to_yaml_value(value);
    }
    return fmt::format("{{{}}}", text);
  }
  return json.dump();
}

std::string to_yaml_document(const nlohmann::ordered_json& json) {
  std::string out;
  write_map(json, "", out);
  return out;
}

void OptionReader::add(const OptionNode& node, const std::string& key, const std::string& problem,
                       const std::string& hint) {
  // An override's place names the key already.
  const bool names_key = node.place.starts_with("--set ");
  errors_.add(names_key ? node.place : node.place + ": " + key, problem, hint);
}

bool OptionReader::expect_map(const OptionNode& node, const std::string& key) {
  if (node.kind == Kind::kMap) return true;
  if (node.kind == Kind::kNull) return false;  // `section:` with everything below it commented out
  add(node, key, not_a("a group of keys", node));
  return false;
}

bool OptionReader::expect_list(const OptionNode& node, const std::string& key) {
  if (node.kind == Kind::kList) return true;
  const bool is_scalar = node.kind == Kind::kScalar;
  add(node, key, not_a("a list", node),
      is_scalar ? fmt::format("write `[{}]`", node.text) : "an empty list is `[]`");
  return false;
}

void OptionReader::report_unknown_keys() {
  for (const auto& [name, value] : node_.entries) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    std::string hint = did_you_mean(name, known_);
    for (const std::string& key : all_keys_) {
      // The right word in the wrong section is a likelier slip than a misspelling.
      const bool is_elsewhere = key == name || key.ends_with(fmt::format(".{}", name));
      if (is_elsewhere) hint = fmt::format("did you mean `{}`?", key);
    }
    if (hint.empty()) {
      for (const std::string& known : known_) hint += (hint.empty() ? "known are " : ", ") + known;
    }
    add(value, prefix_ + name, "unknown key", hint);
  }
}

}  // namespace detail

std::string options_to_text(const std::vector<OptionDoc>& docs) {
  std::string out;
  for (const OptionDoc& doc : docs) {
    if (doc.type.empty()) continue;
    const std::string value = doc.default_value.empty() ? "unset" : doc.default_value;
    const std::string range = doc.range.empty() ? "" : fmt::format("; {}", doc.range);
    out += fmt::format("  {} = {}\n      {} ({}{})\n", doc.key, value, doc.help, doc.type, range);
  }
  return out;
}

std::string options_to_markdown(const std::vector<OptionDoc>& docs) {
  std::string out;
  std::string open = "\n";  // no section yet
  for (const OptionDoc& doc : docs) {
    if (doc.type.empty()) {
      out += fmt::format("\n### `{}`\n\n{}.\n\n", doc.key, doc.help);
      out += "| key | type | default | values | meaning |\n|---|---|---|---|---|\n";
      open = doc.key;
      continue;
    }
    if (section_of(doc.key) != open) {
      out += "\n| key | type | default | values | meaning |\n|---|---|---|---|---|\n";
      open = section_of(doc.key);
    }
    const std::string value =
        doc.default_value.empty() ? std::string() : fmt::format("`{}`", doc.default_value);
    out += fmt::format("| `{}` | {} | {} | {} | {} |\n", doc.key, doc.type, cell(value), cell(doc.range),
                       cell(doc.help));
  }
  return out;
}

}  // namespace msplora
