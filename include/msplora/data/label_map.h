#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "msplora/data/dataset.h"

namespace msplora {

/// Names of the classes and their indices 0 ... n-1.
class LabelMap {
 public:
  /// The labels that occur, sorted: by value when all are integers, else by bytes. Throws Error{kData} when
  /// the data has fewer than two different labels.
  static LabelMap from_data(const Dataset& data);
  /// `id2label` of a config.json. Throws Error{kConfig} unless the keys are 0 ... n-1 and the names differ.
  static LabelMap from_config(const std::map<int64_t, std::string>& id2label);
  /// Names in the order of their indices. Throws Error{kConfig} for fewer than two or repeated names.
  static LabelMap from_list(const std::vector<std::string>& names);
  /// Whether id2label holds the placeholders LABEL_0, LABEL_1, ... that say nothing about the classes.
  static bool is_placeholder(const std::map<int64_t, std::string>& id2label);

  int64_t size() const noexcept { return static_cast<int64_t>(names_.size()); }
  const std::string& name(int64_t index) const;
  const std::vector<std::string>& names() const noexcept { return names_; }
  std::map<int64_t, std::string> id2label() const;

  /// The class called `label`; or, when no class has an integer for its name, the class whose index `label`
  /// is (data that says 1 where the model's config says POSITIVE).
  std::optional<int64_t> find(std::string_view label) const;
  /// The class of example `index`. Throws Error{kData} with file, line, the label, the known labels and the
  /// nearest.
  int64_t index_of(const Dataset& data, size_t index) const;

 private:
  static LabelMap make(std::vector<std::string> names);
  std::vector<std::string> names_;
  std::unordered_map<std::string, int64_t> indices_;
  bool has_integer_names_ = false;
};

}  // namespace msplora
