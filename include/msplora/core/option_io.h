#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/options.h"

/// Visitors over options structs (options.h): reading YAML, overrides, JSON, YAML out, reference
/// documentation. A declaration in visit() is all that a new option needs.
namespace msplora {

/// One value of a YAML document, with the place it stands at.
struct OptionNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;      // of a scalar
  bool quoted = false;   // a scalar that was quoted is text whatever it looks like
  bool is_path = false;  // a map that stands for one component of an `a.b=c` path
  std::string place;     // "recipe.yaml:12", or the override it came from
  std::vector<OptionNode> items;
  std::vector<std::pair<std::string, OptionNode>> entries;

  const OptionNode* find(const std::string& name) const;
};

/// Parses one YAML document whose top level is a map (an empty text is an empty map).
/// Throws Error{kConfig} naming file, line and column for bad syntax, a key given twice, several documents,
/// or values nested absurdly deep.
OptionNode parse_option_yaml(const std::string& yaml_text, const std::string& file_name);

/// The tree of one override `a.b=c`; c is a YAML value, so that `adapter.target_modules=[query,value]` works.
/// Throws Error{kUsage} when the text has no `=` or the value is not YAML.
OptionNode parse_override(const std::string& assignment);

/// One line of the reference page.
struct OptionDoc {
  std::string key;            // "train.lr"; of a section "train"
  std::string type;           // "number", "list of text", ...; "" for a section
  std::string default_value;  // as YAML; "" when there is none (optional, or a section)
  std::string range;          // "at least 1", "`a` or `b`"; may be empty
  std::string help;
};

namespace detail {

// Readers of one value. They return "" or what is wrong ("expected an integer, found ...").
std::string read_value(const OptionNode& node, const OptionRange& range, bool& value);
std::string read_value(const OptionNode& node, const OptionRange& range, int64_t& value);
std::string read_value(const OptionNode& node, const OptionRange& range, double& value);
std::string read_value(const OptionNode& node, const OptionRange& range, std::string& value);

/// A value with a form of its own: kOptionType says it, read() takes it and gives what is wrong or whether it
/// fits, to_json() writes it.
template <class T>
concept IsOwnOption = requires {
  T::kOptionType;
};
template <IsOwnOption T>
std::string read_value(const OptionNode& node, const OptionRange&, T& value) {
  return value.read(node);
}

/// "the text `abc`", "a list", "nothing".
std::string describe_node(const OptionNode& node);
std::string range_text(const OptionRange& range);
/// Nested path maps `{a: {b: 1}}` of an override as `{"a.b": 1}`: keys of a map option may hold dots.
std::vector<std::pair<std::string, const OptionNode*>> map_entries(const OptionNode& node);

std::string to_yaml_value(const nlohmann::ordered_json& json);
std::string to_yaml_document(const nlohmann::ordered_json& json);

inline std::string type_text(const bool&) {
  return "true or false";
}
inline std::string type_text(const int64_t&) {
  return "integer";
}
inline std::string type_text(const double&) {
  return "number";
}
inline std::string type_text(const std::string&) {
  return "text";
}
template <IsOwnOption T>
std::string type_text(const T&) {
  return T::kOptionType;
}
template <class T>
std::string type_text(const std::optional<T>&) {
  return type_text(T{});
}
template <class T>
std::string type_text(const std::vector<T>&) {
  return "list of " + type_text(T{});
}
template <class T>
std::string type_text(const std::map<std::string, T>&) {
  return "map from text to " + type_text(T{});
}

struct AnyVisitor {
  template <class... Arguments>
  void operator()(const Arguments&...) {}
};

/// Options of a section: a struct or an OptionGroup.
template <class Value>
concept HasOptions = requires(Value& value, AnyVisitor& visitor) {
  value.visit(visitor);
};

class DocWriter {
 public:
  DocWriter(std::string prefix, std::vector<OptionDoc>& docs) : prefix_(std::move(prefix)), docs_(docs) {}

  template <class T>
  void operator()(const char* name, T& value, const char* help, const OptionRange& range = {}) {
    const std::string key = prefix_ + name;
    if constexpr (HasOptions<T>) {
      docs_.push_back({key, "", "", "", help});
      DocWriter nested(key + ".", docs_);
      value.visit(nested);
    } else {
      docs_.push_back({key, type_text(value), default_text(value), range_text(range), help});
    }
  }

 private:
  template <class T>
  static std::string default_text(const T& value) {
    return to_yaml_value(nlohmann::ordered_json(value));
  }
  template <class T>
  static std::string default_text(const std::optional<T>& value) {
    return value ? default_text(*value) : std::string();
  }

  std::string prefix_;
  std::vector<OptionDoc>& docs_;
};

template <class Json>
class JsonWriter {
 public:
  explicit JsonWriter(Json& out) : out_(out) {}

  template <class T, class... Rest>
  void operator()(const char* name, T& value, const Rest&...) {
    if constexpr (HasOptions<T>) {
      Json nested = Json::object();
      JsonWriter writer(nested);
      value.visit(writer);
      out_[name] = std::move(nested);
    } else {
      write(name, value);
    }
  }

 private:
  template <class T>
  void write(const char* name, const T& value) {
    out_[name] = value;
  }
  template <class T>
  void write(const char* name, const std::optional<T>& value) {
    out_[name] = value ? Json(*value) : Json();
  }

  Json& out_;
};

/// Moves the values of one map node into the options of one struct.
class OptionReader {
 public:
  /// `all_keys` are the full keys of the whole recipe, for hints about keys in the wrong section.
  OptionReader(const OptionNode& node, std::string prefix, const std::vector<std::string>& all_keys,
               ErrorList& errors)
      : node_(node), prefix_(std::move(prefix)), all_keys_(all_keys), errors_(errors) {}

  template <class T>
  void operator()(const char* name, T& value, const char*, const OptionRange& range = {}) {
    known_.push_back(name);
    const OptionNode* found = node_.find(name);
    if (found == nullptr) return;
    const std::string key = prefix_ + name;
    if constexpr (HasOptions<T>) {
      if (!expect_map(*found, key)) return;
      OptionReader nested(*found, key + ".", all_keys_, errors_);
      value.visit(nested);
      nested.report_unknown_keys();
    } else {
      read(*found, key, range, value);
    }
  }

  /// Adds every key of the node that no option has; called after visit().
  void report_unknown_keys();

 private:
  bool expect_map(const OptionNode& node, const std::string& key);
  bool expect_list(const OptionNode& node, const std::string& key);
  void add(const OptionNode& node, const std::string& key, const std::string& problem,
           const std::string& hint = {});

  template <class T>
  void read(const OptionNode& node, const std::string& key, const OptionRange& range, T& value) {
    T parsed{};
    const std::string problem = read_value(node, range, parsed);
    if (problem.empty()) {
      value = std::move(parsed);
    } else {
      add(node, key, problem);
    }
  }
  template <class T>
  void read(const OptionNode& node, const std::string& key, const OptionRange& range,
            std::optional<T>& value) {
    if (node.kind == OptionNode::Kind::kNull) {
      value.reset();
      return;
    }
    T parsed{};
    const size_t before = errors_.size();
    read(node, key, range, parsed);
    if (errors_.size() == before) value = std::move(parsed);
  }
  template <class T>
  void read(const OptionNode& node, const std::string& key, const OptionRange& range, std::vector<T>& value) {
    if (!expect_list(node, key)) return;
    std::vector<T> parsed(node.items.size());
    const size_t before = errors_.size();
    for (size_t i = 0; i < parsed.size(); ++i) {
      T item{};
      read(node.items[i], key + "[" + std::to_string(i) + "]", range, item);
      parsed[i] = std::move(item);
    }
    if (errors_.size() == before) value = std::move(parsed);
  }
  template <class T>
  void read(const OptionNode& node, const std::string& key, const OptionRange& range,
            std::map<std::string, T>& value) {
    if (node.kind != OptionNode::Kind::kNull && !expect_map(node, key)) return;
    // `--set map.name=1` adds to what the file says; a whole map replaces it.
    std::map<std::string, T> parsed = node.is_path ? value : std::map<std::string, T>();
    const size_t before = errors_.size();
    for (const auto& [name, entry] : map_entries(node)) read(*entry, key + "." + name, range, parsed[name]);
    if (errors_.size() == before) value = std::move(parsed);
  }

  const OptionNode& node_;
  std::string prefix_;
  const std::vector<std::string>& all_keys_;
  ErrorList& errors_;
  std::vector<std::string> known_;
};

// Readers of one value of JSON, false for another type. Strict: no number becomes an integer by truncation,
// no bool a number.
bool read_value(const nlohmann::json& json, bool& value);
bool read_value(const nlohmann::json& json, int64_t& value);
bool read_value(const nlohmann::json& json, double& value);
bool read_value(const nlohmann::json& json, std::string& value);
template <IsOwnOption T>
bool read_value(const nlohmann::json& json, T& value) {
  return value.read(json);
}
template <class T>
bool read_value(const nlohmann::json& json, std::optional<T>& value) {
  value.reset();
  return json.is_null() || read_value(json, value.emplace());
}
template <class T>
bool read_value(const nlohmann::json& json, std::vector<T>& value) {
  value.assign(json.is_array() ? json.size() : 0, T{});
  bool fits = json.is_array();
  for (size_t i = 0; fits && i < value.size(); ++i) fits = read_value(json[i], value[i]);
  return fits;
}
template <class T>
bool read_value(const nlohmann::json& json, std::map<std::string, T>& value) {
  value.clear();
  bool fits = json.is_object();
  for (const auto& [key, entry] : json.items()) fits = fits && read_value(entry, value[key]);
  return fits;
}

/// {"a": {"b": value}} for "a.b".
nlohmann::json nested(const std::string& path, const nlohmann::json& value);

/// Moves the values of a JSON object into the options of one struct.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& from, std::string where, ErrorList& errors)
      : from_(from), where_(std::move(where)), errors_(errors) {}

  template <class T, class... Rest>
  void operator()(const char* name, T& value, const Rest&...) {
    known_.push_back(name);
    const auto found = from_.find(name);
    if (found == from_.end()) return;
    if constexpr (HasOptions<T>) {
      if (found->is_object()) return JsonReader(*found, where_ + "." + name, errors_).read_all(value);
    } else {
      T parsed{};
      if (read_value(*found, parsed)) {
        value = std::move(parsed);
        return;
      }
    }
    errors_.add(where_ + "." + name, "wrong type or out of range: " + found->dump());
  }

  template <class Options>
  void read_all(Options& options) {
    options.visit(*this);
    report_unknown_keys();
  }

 private:
  void report_unknown_keys();

  const nlohmann::json& from_;
  std::string where_;
  ErrorList& errors_;
  std::vector<std::string> known_;
};

/// Adds the values that lie outside of their declared ranges and choices.
class RangeChecker {
 public:
  RangeChecker(std::string prefix, ErrorList& errors) : prefix_(std::move(prefix)), errors_(errors) {}

  template <class T>
  void operator()(const char* name, T& value, const char*, const OptionRange& range = {}) {
    const std::string key = prefix_ + name;
    if constexpr (HasOptions<T>) {
      value.visit(RangeChecker(key + ".", errors_));
    } else {
      check(key, value, range);
    }
  }

 private:
  void check(const std::string&, bool, const OptionRange&) {}
  void check(const std::string& key, int64_t value, const OptionRange& range);
  void check(const std::string& key, double value, const OptionRange& range);
  void check(const std::string& key, const std::string& value, const OptionRange& range);
  template <IsOwnOption T>
  void check(const std::string&, const T&, const OptionRange&) {}  // read() has checked it
  template <class T>
  void check(const std::string& key, const std::optional<T>& value, const OptionRange& range) {
    if (value) check(key, *value, range);
  }
  template <class T>
  void check(const std::string& key, const std::vector<T>& value, const OptionRange& range) {
    for (const T& entry : value) check(key, entry, range);
  }
  template <class T>
  void check(const std::string& key, const std::map<std::string, T>& value, const OptionRange& range) {
    for (const auto& [name, entry] : value) check(key, entry, range);
  }

  std::string prefix_;
  ErrorList& errors_;
};

}  // namespace detail

/// Every option in declaration order, sections included.
template <class Options>
std::vector<OptionDoc> describe(Options options) {
  std::vector<OptionDoc> docs;
  detail::DocWriter writer("", docs);
  options.visit(writer);
  return docs;
}

/// Takes the values of `node` over into `options`; options it does not name keep their values. Adds every
/// unknown key, wrong type and value out of range to `errors`, with the place it stands at.
template <class Options>
void read_options(Options& options, const OptionNode& node, ErrorList& errors) {
  std::vector<std::string> all_keys;
  for (const OptionDoc& doc : describe(options)) all_keys.push_back(doc.key);
  detail::OptionReader reader(node, "", all_keys, errors);
  options.visit(reader);
  reader.report_unknown_keys();
}

/// Reads a recipe. Relative paths in it stay as written: they are relative to the current directory.
/// Bad YAML syntax is added to `errors` too.
template <class Options>
void read_yaml(Options& options, const std::string& yaml_text, const std::string& file_name,
               ErrorList& errors) {
  try {
    read_options(options, parse_option_yaml(yaml_text, file_name), errors);
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
  }
}

/// Applies `a.b=c`, given as `--set a.b=c`. Problems are added to `errors`.
template <class Options>
void apply_override(Options& options, const std::string& assignment, ErrorList& errors) {
  try {
    read_options(options, parse_override(assignment), errors);
  } catch (const Error& error) {
    errors.add(error.where(), error.message(), error.hint());
  }
}

/// Takes the values of a JSON object over into `options`; options that it does not name keep theirs. Adds
/// unknown keys and wrong types to `errors`, under `where`; ranges are check_ranges' to judge.
template <class Options>
void read_json(Options& options, const nlohmann::json& from, const std::string& where, ErrorList& errors) {
  detail::JsonReader(from, where, errors).read_all(options);
}

/// Sets one option by name ("aslora.interval"), as read_json does; ranges are not looked at. Throws
/// Error{kConfig} for an unknown name or a value of another type; `section` precedes the name in messages.
template <class Options>
void set_option(Options& options, const std::string& option, const nlohmann::json& value,
                const std::string& section) {
  ErrorList errors;
  read_json(options, detail::nested(option, value), section, errors);
  errors.throw_if_any(ErrorCode::kConfig, section);
}

/// Adds every option whose value lies outside its declared range or choices, for values that no reader has
/// seen. `prefix` precedes the names: "adapter.".
template <class Options>
void check_ranges(Options options, const std::string& prefix, ErrorList& errors) {
  options.visit(detail::RangeChecker(prefix, errors));
}

/// All values, nested as in the file; unset ones are null.
template <class Options>
nlohmann::json to_json(Options options) {
  nlohmann::json json = nlohmann::json::object();
  detail::JsonWriter<nlohmann::json> writer(json);
  options.visit(writer);
  return json;
}

/// All values in the order of declaration, as YAML that read_yaml() takes back without change.
template <class Options>
std::string to_yaml(Options options) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  detail::JsonWriter<nlohmann::ordered_json> writer(json);
  options.visit(writer);
  return detail::to_yaml_document(json);
}

/// The reference as plain text, for --help.
std::string options_to_text(const std::vector<OptionDoc>& docs);
/// The reference as Markdown: one table per section.
std::string options_to_markdown(const std::vector<OptionDoc>& docs);

}  // namespace msplora
