#include "adapters/config_json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

namespace msplora::detail {
namespace {

using nlohmann::json;

template <typename T>
struct is_vector : std::false_type {};
template <typename T>
struct is_vector<std::vector<T>> : std::true_type {};
template <typename T>
struct is_optional : std::false_type {};
template <typename T>
struct is_optional<std::optional<T>> : std::true_type {};
template <typename T>
struct is_map : std::false_type {};
template <typename T>
struct is_map<std::map<std::string, T>> : std::true_type {};

template <typename T>
json write(const T& value) {
  if constexpr (is_optional<T>::value) {
    return value ? json(*value) : json(nullptr);
  } else {
    return value;
  }
}

/// Strict: no number becomes an integer by truncation, no bool a number.
template <typename T>
bool read(const json& from, T& to) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!from.is_boolean()) return false;
    to = from.get<bool>();
  } else if constexpr (std::is_same_v<T, int64_t>) {
    if (!from.is_number_integer()) return false;
    to = from.get<int64_t>();
  } else if constexpr (std::is_same_v<T, double>) {
    if (!from.is_number()) return false;
    to = from.get<double>();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!from.is_string()) return false;
    to = from.get<std::string>();
  } else if constexpr (is_optional<T>::value) {
    to.reset();
    return from.is_null() || read(from, to.emplace());
  } else if constexpr (is_vector<T>::value) {
    if (!from.is_array()) return false;
    to.clear();
    for (const json& entry : from) {
      if (!read(entry, to.emplace_back())) return false;
    }
  } else {
    static_assert(is_map<T>::value);
    if (!from.is_object()) return false;
    to.clear();
    for (const auto& [key, entry] : from.items()) {
      if (!read(entry, to[key])) return false;
    }
  }
  return true;
}

class RangeChecker {
 public:
  RangeChecker(std::string name, const OptionRange& range, ErrorList& errors)
      : name_(std::move(name)), range_(range), errors_(errors) {}

  template <typename T>
  void check(const T& value) {
    if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
      check_number(static_cast<double>(value));
    } else if constexpr (std::is_same_v<T, std::string>) {
      check_choice(value);
    } else if constexpr (is_optional<T>::value) {
      if (value) check(*value);
    } else if constexpr (is_vector<T>::value) {
      for (const auto& entry : value) check(entry);
    } else if constexpr (is_map<T>::value) {
      for (const auto& [key, entry] : value) check(entry);
    }
  }

 private:
  void check_number(double value) {
    // Written so that NaN fails.
    const bool above_min = !range_.min || (range_.min_excluded ? value > *range_.min : value >= *range_.min);
    const bool below_max = !range_.max || (range_.max_excluded ? value < *range_.max : value <= *range_.max);
    if (above_min && below_max && value - value == 0.0) return;
    std::string expected;
    if (range_.min) expected = fmt::format("{} {}", range_.min_excluded ? "above" : "at least", *range_.min);
    if (range_.max) {
      expected += fmt::format("{}{} {}", expected.empty() ? "" : " and ",
                              range_.max_excluded ? "below" : "at most", *range_.max);
    }
    errors_.add(name_, fmt::format("must be {}, but is {}", expected.empty() ? "finite" : expected, value));
  }

  void check_choice(const std::string& value) {
    if (range_.choices.empty()) return;
    for (const std::string& choice : range_.choices) {
      if (choice == value) return;
    }
    errors_.add(name_, fmt::format("must be one of {}, but is `{}`", fmt::join(range_.choices, ", "), value),
                did_you_mean(value, range_.choices));
  }

  std::string name_;
  const OptionRange& range_;
  ErrorList& errors_;
};

/// Options of one method are a struct of their own, an object in the file.
template <typename T>
concept HasOptions = requires(T& value) {
  value.visit([](const char*, auto&, const char*, auto...) {});
};

struct Writer {
  json result = json::object();
  template <typename T>
  void operator()(const char* name, T& value, const char*, const OptionRange& = {}) {
    if constexpr (HasOptions<T>) {
      Writer nested;
      value.visit(nested);
      result[name] = std::move(nested.result);
    } else {
      result[name] = write(value);
    }
  }
};

struct Reader {
  const json& from;
  std::string where;
  ErrorList& errors;
  std::set<std::string> known = {};

  template <typename T>
  void operator()(const char* name, T& value, const char*, const OptionRange& = {}) {
    known.insert(name);
    const auto found = from.find(name);
    if (found == from.end()) return;
    if constexpr (HasOptions<T>) {
      if (found->is_object()) return Reader{*found, where + "." + name, errors}.read_all(value);
    } else if (read(*found, value)) {
      return;
    }
    errors.add(where + "." + name, fmt::format("wrong type: {}", found->dump()));
  }

  template <typename Options>
  void read_all(Options& options) {
    options.visit(*this);
    for (const auto& [name, value] : from.items()) {
      if (known.count(name) == 0)
        errors.add(where + "." + name, "unknown option", "the file may come from a newer version");
    }
  }
};

struct AllRanges {
  std::string prefix;
  ErrorList& errors;
  template <typename T>
  void operator()(const char* name, T& value, const char*, const OptionRange& range = {}) {
    if constexpr (HasOptions<T>) {
      value.visit(AllRanges{fmt::format("{}.{}", prefix, name), errors});
    } else {
      RangeChecker(fmt::format("{}.{}", prefix, name), range, errors).check(value);
    }
  }
};

/// Names of the groups that methods have for themselves.
struct GroupNames {
  std::vector<std::string> names = {};
  template <typename T>
  void operator()(const char* name, T&, const char*, const OptionRange& = {}) {
    if constexpr (HasOptions<T>) names.push_back(name);
  }
};

}  // namespace

json config_to_json(const AdapterConfig& config) {
  AdapterConfig copy = config;
  Writer writer;
  copy.visit(writer);
  return std::move(writer.result);
}

AdapterConfig config_from_json(const json& from, const std::string& where) {
  if (!from.is_object()) throw Error(ErrorCode::kFormat, where, "expected an object of options");
  ErrorList errors;
  AdapterConfig config;
  Reader{from, where, errors}.read_all(config);
  errors.throw_if_any(ErrorCode::kFormat, where);
  return config;
}

void check_ranges(const AdapterConfig& config, ErrorList& errors) {
  AdapterConfig copy = config;
  copy.visit(AllRanges{"adapter", errors});
}

void check_foreign_options(const AdapterConfig& config, ErrorList& errors) {
  AdapterConfig plain;
  GroupNames groups;
  plain.visit(groups);
  const json set = config_to_json(config), defaults = config_to_json(plain);
  for (const std::string& group : groups.names) {
    if (group == config.method) continue;
    for (const auto& [name, value] : set[group].items()) {
      if (value == defaults[group][name]) continue;
      errors.add(fmt::format("adapter.{}.{}", group, name),
                 fmt::format("belongs to method {}; {} would ignore it", group, config.method));
    }
  }
}

void refuse_options(const AdapterConfig& config, const std::vector<std::string>& names, ErrorList& errors) {
  const json set = config_to_json(config), defaults = config_to_json(AdapterConfig());
  for (const std::string& name : names) {
    if (set.at(name) == defaults.at(name)) continue;
    errors.add(fmt::format("adapter.{}", name), fmt::format("has no effect with method {}", config.method));
  }
}

}  // namespace msplora::detail
