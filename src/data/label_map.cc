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

std::string list_names(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kListedLabels);
  std::string text = fmt::format(
      "`{}`", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), "`, `"));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

}  // namespace

LabelMap LabelMap::make(std::vector<std::string> names) {
  LabelMap map;
  map.names_ = std::move(names);
  for (size_t i = 0; i < map.names_.size(); ++i) {
    map.indices_.emplace(map.names_[i], static_cast<int64_t>(i));
    map.has_integer_names_ = map.has_integer_names_ || parse_integer(map.names_[i]).has_value();
  }
  return map;
}

LabelMap LabelMap::from_data(const Dataset& data) {
  std::vector<std::string> names;
  for (const auto& [name, count] : data.label_counts()) names.push_back(name);
  if (names.size() < 2) {
    throw Error(ErrorCode::kData, data.path().string(),
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

LabelMap LabelMap::from_config(const std::map<int64_t, std::string>& id2label) {
  std::vector<std::string> names;
  for (const auto& [index, name] : id2label) {
    if (index != static_cast<int64_t>(names.size())) {
      throw Error(ErrorCode::kConfig, "id2label",
                  fmt::format("expected the keys 0 to {}, found {}", id2label.size() - 1, index));
    }
    names.push_back(name);
  }
  LabelMap map = make(std::move(names));
  if (map.indices_.size() != map.names_.size() || map.names_.empty()) {
    throw Error(ErrorCode::kConfig, "id2label",
                fmt::format("expected different names for all classes, found {}", list_names(map.names_)));
  }
  return map;
}

LabelMap LabelMap::from_list(const std::vector<std::string>& names) {
  LabelMap map = make(names);
  if (names.size() < 2 || map.indices_.size() != names.size()) {
    throw Error(ErrorCode::kConfig, "data.labels",
                fmt::format("expected two or more different class names, found {}", list_names(names)));
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
  if (has_integer_names_) return std::nullopt;
  const std::optional<int64_t> index = parse_integer(label);
  if (index && *index >= 0 && *index < size()) return index;
  return std::nullopt;
}

int64_t LabelMap::index_of(const Dataset& data, size_t index) const {
  const std::string& label = data[index].label;
  if (const std::optional<int64_t> found = find(label)) return *found;
  throw Error(
      ErrorCode::kData, data.where(index),
      fmt::format("the label `{}` is none of the {} known labels: {}", label, size(), list_names(names_)),
      did_you_mean(label, names_));
}

}  // namespace msplora
