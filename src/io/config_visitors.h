#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/config_fields.h"
#include "io/strict_json.h"
#include "msplora/core/error.h"

/// The visitors that read and write the keys of config.json that config_fields.h declares.
namespace msplora::detail {

// Larger values are mistakes; the bound keeps products of two sizes within 64 bits.
inline constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;

// An integer as int64, values above its range as its maximum.
inline int64_t saturated(const nlohmann::json& value) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const bool above = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kLargest);
  return above ? kLargest : value.get<int64_t>();
}

// The key that holds how rotary angles are made: rope_scaling, which wins in transformers 5 where both are
// given, or rope_parameters; "" without either.
inline std::string rope_key(const nlohmann::json& source) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (const auto found = source.find(key); found != source.end() && !found->is_null()) return key;
  }
  return {};
}

// The visitor that reads. A key that is missing or null takes the default.
class ConfigReader {
 public:
  explicit ConfigReader(const nlohmann::json& source) : source_(source) {
    for (const auto& item : source.items()) keys_.push_back(item.key());
  }

  void size(const std::string& key, int64_t& field, std::optional<int64_t> fallback, int64_t min = 1) {
    const nlohmann::json* value = find(key);
    const std::string expected = min == 1 ? "a positive integer" : "a non-negative integer";
    if (value == nullptr) {
      if (fallback) field = *fallback;
      if (!fallback) problem(key, "missing, expected " + expected, did_you_mean(key, keys_));
      return;
    }
    if (!value->is_number_integer()) return wrong(key, expected, *value);
    const int64_t number = saturated(*value);
    if (number > kMaxSize) return wrong(key, fmt::format("at most {}", kMaxSize), *value);
    if (number < min) return wrong(key, expected, *value);
    field = number;
  }

  void real(const std::string& key, double& field, double fallback, const RealRange& range) {
    std::optional<double> value;
    optional_real(key, value, range);
    field = value.value_or(fallback);
  }

  void optional_real(const std::string& key, std::optional<double>& field, const RealRange& range) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : -1.0;
    const bool low = range.min_included ? number < range.min : number <= range.min;
    if (low || number >= range.max) return wrong(key, range.text, *value);
    field = number;
  }

  void text(const std::string& key, std::string& field, const std::string& fallback) {
    const nlohmann::json* value = find(key);
    field = fallback;
    if (value == nullptr) return;
    if (!value->is_string()) return wrong(key, "a string", *value);
    field = value->get<std::string>();
  }

  void flag(const std::string& key, bool& field, bool fallback) {
    const nlohmann::json* value = find(key);
    field = fallback;
    if (value == nullptr) return;
    if (!value->is_boolean()) return wrong(key, "true or false", *value);
    field = value->get<bool>();
  }

  // Null counts as missing, as in Hugging Face. Newer versions keep rope_theta in an object of its own, and
  // take that one where both are given.
  const nlohmann::json* find(const std::string& key) const {
    if (key == "rope_theta") {
      const std::string rope = rope_key(source_);
      if (!rope.empty() && source_[rope].is_object()) {
        const auto inner = source_[rope].find(key);
        if (inner != source_[rope].end() && !inner->is_null()) return &*inner;
      }
    }
    const auto found = source_.find(key);
    return found != source_.end() && !found->is_null() ? &*found : nullptr;
  }

  void wrong(const std::string& key, const std::string& expected, const nlohmann::json& value,
             const std::string& hint = {}) {
    problem(key, "expected " + expected + ", found " + json_excerpt(value), hint);
  }

  void problem(const std::string& key, const std::string& message, const std::string& hint = {}) {
    problems_.emplace_back(ErrorCode::kConfig, key, message, hint);
  }

  const std::vector<Error>& problems() const { return problems_; }

  // One problem is reported as "file: key: ...", several as a list under the file's name.
  void throw_if_any(const std::string& where) const { throw_problems(problems_, where); }

  static void throw_problems(const std::vector<Error>& problems, const std::string& where) {
    ErrorList list;
    for (const Error& problem : problems) {
      list.add(problems.size() == 1 ? where + ": " + problem.where() : problem.where(), problem.message(),
               problem.hint());
    }
    list.throw_if_any(ErrorCode::kConfig, where);
  }

 private:
  const nlohmann::json& source_;
  std::vector<std::string> keys_;
  std::vector<Error> problems_;
};

// The visitor that writes. A key that the file left to its default stays as it was.
class ConfigWriter {
 public:
  explicit ConfigWriter(nlohmann::json& target) : target_(target), complete_(target.empty()) {}

  void size(const std::string& key, int64_t field, std::optional<int64_t> fallback, int64_t = 1) {
    set(key, field, fallback && *fallback == field);
  }
  void real(const std::string& key, double field, double fallback, const RealRange&) {
    set(key, field, field == fallback);
  }
  void optional_real(const std::string& key, const std::optional<double>& field, const RealRange&) {
    set(key, field ? nlohmann::json(*field) : nlohmann::json(nullptr), !field);
  }
  void text(const std::string& key, const std::string& field, const std::string& fallback) {
    set(key, field, field == fallback);
  }
  void flag(const std::string& key, bool field, bool fallback) { set(key, field, field == fallback); }

  void set(const std::string& key, const nlohmann::json& value, bool is_default) {
    const std::string rope = key == "rope_theta" ? rope_key(target_) : std::string();
    const bool has_object = !rope.empty() && target_[rope].is_object();
    // Where the reader looks first; a second spelling must not contradict it.
    const bool in_object = has_object && (target_[rope].contains(key) || !target_.contains(key));
    if (in_object && target_.contains(key)) target_[key] = value;
    nlohmann::json& object = in_object ? target_[rope] : target_;
    const auto found = object.find(key);
    const bool given = found != object.end() && !found->is_null();
    if (!given && is_default && !complete_) return;
    if (!given || *found != value) object[key] = value;
  }

 private:
  nlohmann::json& target_;
  bool complete_;  // there was no file: every key is written
};

}  // namespace msplora::detail
