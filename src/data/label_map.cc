#include "msplora/data/label_map.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "text_util.h"

namespace msplora {
namespace {

constexpr size_t kListedLabels = 20;
constexpr int64_t kFewValues = 20;  // more different numbers than this are rarely classes

std::string list_names(const std::vector<std::string>& names) {
  constexpr size_t kMostCharacters = 300;  // in all: names may be sentences
  std::string text;
  size_t shown = 0;
  for (; shown < std::min(names.size(), kListedLabels) && text.size() < kMostCharacters; ++shown)
    text += fmt::format("{}`{}`", shown > 0 ? ", " : "", beginning_of(names[shown]));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

}  // namespace

LabelMap LabelMap::make(std::vector<std::string> names) {
  LabelMap map;
  map.names_ = std::move(names);
  for (size_t i = 0; i < map.names_.size(); ++i) map.indices_.emplace(map.names_[i], static_cast<int64_t>(i));
  return map;
}

LabelMap LabelMap::from_data(const Dataset& data) {
  return from_counts(data.path(), data.label_counts());
}

LabelMap LabelMap::from_counts(const std::filesystem::path& file,
                               const std::map<std::string, int64_t>& counts) {
  std::vector<std::string> names;
  for (const auto& [name, count] : counts) names.push_back(name);
  if (names.size() < 2) {
    throw Error(ErrorCode::kData, file.string(),
                names.empty() ? std::string("the data set has no labels")
                              : fmt::format("expected at least two classes, found only `{}`", names.front()),
                "check data.label; numbers to predict need the task regression");
  }
  const auto is_integer = [](const std::string& name) { return parse_integer(name).has_value(); };
  if (std::all_of(names.begin(), names.end(), is_integer)) {
    std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
      return *parse_integer(a) < *parse_integer(b);
    });
  }
  return make(std::move(names));
}

LabelMap LabelMap::from_list(const std::vector<std::string>& names) {
  LabelMap map = make(names);
  if (names.size() < 2 || map.indices_.size() != names.size()) {
    throw Error(ErrorCode::kConfig, "data.labels",
                fmt::format("expected two or more different class names, found {}", list_names(names)));
  }
  return map;
}

LabelMap LabelMap::with_numbers(const std::vector<std::string>& numbered, const std::string& where) const {
  const LabelMap given = make(numbered);
  if (given.indices_.size() != numbered.size()) {
    throw Error(ErrorCode::kConfig, where,
                fmt::format("expected different class names, found {}", list_names(numbered)));
  }
  if (given.size() != size()) {
    throw Error(ErrorCode::kConfig, where,
                fmt::format("{} class names for {} classes: {}", given.size(), size(), list_names(names_)));
  }
  bool says_nothing = true;
  for (size_t i = 0; i < names_.size(); ++i) says_nothing = says_nothing && names_[i] == std::to_string(i);
  LabelMap map = says_nothing ? given : *this;
  map.numbered_.clear();
  for (const std::string& name : numbered) {
    const auto found = map.indices_.find(name);
    if (found == map.indices_.end()) {
      throw Error(ErrorCode::kConfig, where,
                  fmt::format("no class is called `{}`; the classes are {}", name, list_names(names_)),
                  did_you_mean(name, names_));
    }
    map.numbered_.push_back(found->second);
  }
  return map;
}

bool LabelMap::is_placeholder(const std::map<int64_t, std::string>& id2label) {
  return std::all_of(id2label.begin(), id2label.end(),
                     [](const auto& item) { return item.second == fmt::format("LABEL_{}", item.first); });
}

const std::string& LabelMap::name(int64_t index) const {
  if (index < 0 || index >= size()) {
    throw Error(ErrorCode::kUsage, "LabelMap", fmt::format("class {} of {} does not exist", index, size()));
  }
  return names_[static_cast<size_t>(index)];
}

std::map<int64_t, std::string> LabelMap::id2label() const {
  std::map<int64_t, std::string> result;
  for (size_t i = 0; i < names_.size(); ++i) result.emplace(static_cast<int64_t>(i), names_[i]);
  return result;
}

std::optional<int64_t> LabelMap::find(std::string_view label) const {
  const auto found = indices_.find(std::string(label));
  if (found != indices_.end()) return found->second;
  const std::optional<int64_t> number = parse_integer(label);
  if (number && *number >= 0 && *number < static_cast<int64_t>(numbered_.size()))
    return numbered_[static_cast<size_t>(*number)];
  return std::nullopt;
}

std::string LabelMap::hint_for(const std::string& label) const {
  const auto is_integer = [](const std::string& text) { return parse_integer(text).has_value(); };
  const auto is_number = [](const std::string& text) { return parse_double(text).has_value(); };
  const bool names_are_numbers = std::all_of(names_.begin(), names_.end(), is_number);
  if (is_integer(label) && numbered_.empty() && !std::any_of(names_.begin(), names_.end(), is_integer)) {
    return "a number does not say which class it stands for; list the names in the order of the numbers, 0 "
           "first, with --labels NAME,NAME,... or data.labels";
  }
  if (names_are_numbers && is_number(label) && size() > kFewValues)
    return "numbers with many values: set task.type to regression";
  if (names_are_numbers && !is_number(label)) {
    return "the classes have numbers for names; give the names in the order of the numbers with --labels "
           "NAME,NAME,... or data.labels";
  }
  return did_you_mean(label, names_);
}

int64_t LabelMap::index_of(const Dataset& data, size_t index) const {
  const std::string& label = data[index].label;
  if (const std::optional<int64_t> found = find(label)) return *found;
  throw Error(
      ErrorCode::kData, data.where(index),
      fmt::format("the label `{}` is none of the {} known labels: {}", label, size(), list_names(names_)),
      hint_for(label));
}

}  // namespace msplora
