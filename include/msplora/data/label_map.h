#pragma once

#include <cstdint>
#include <filesystem>
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
  static LabelMap from_counts(const std::filesystem::path& file,
                              const std::map<std::string, int64_t>& counts);
  /// Names in the order of their indices. Throws Error{kConfig} for fewer than two or repeated names.
  static LabelMap from_list(const std::vector<std::string>& names);
  /// Says what integers in a file stand for: 0 for numbered[0], and so on. The names must be those of this
  /// map, in any order; where its own are the numbers 0 ... n-1, which say nothing, they take their place.
  /// Throws Error{kConfig} otherwise, `where` naming the option ("--labels").
  LabelMap with_numbers(const std::vector<std::string>& numbered, const std::string& where) const;
  /// Whether id2label holds the placeholders LABEL_0, LABEL_1, ... that say nothing about the classes.
  static bool is_placeholder(const std::map<int64_t, std::string>& id2label);

  int64_t size() const noexcept { return static_cast<int64_t>(names_.size()); }
  const std::string& name(int64_t index) const;
  const std::vector<std::string>& names() const noexcept { return names_; }
  std::map<int64_t, std::string> id2label() const;

  /// The class called `label`, or that with_numbers() gave this number. Never an index by itself: the order
  /// of the classes is that of their names, and a file's numbers rarely follow it.
  std::optional<int64_t> find(std::string_view label) const;
  /// The class of example `index`. Throws Error{kData} with file, line, the label, the known labels and the
  /// nearest, or what else would help.
  int64_t index_of(const Dataset& data, size_t index) const;

 private:
  static LabelMap make(std::vector<std::string> names);
  std::string hint_for(const std::string& label) const;
  std::vector<std::string> names_;
  std::unordered_map<std::string, int64_t> indices_;
  std::vector<int64_t> numbered_;  // class of each number, or empty
};

}  // namespace msplora
