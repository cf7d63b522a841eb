#include "msplora/data/options.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "msplora/core/option_io.h"

namespace msplora {
namespace {

OptionRange weight_range() {
  return {{}, 0.0, WeightedFile::kMostWeight, /*min_excluded=*/true, /*max_excluded=*/false};
}

/// A path, or a group of `path` and `weight`; "" or what is wrong.
std::string read_file_entry(const OptionNode& node, WeightedFile& file) {
  if (node.kind == OptionNode::Kind::kScalar) return detail::read_value(node, {}, file.path);
  if (node.kind != OptionNode::Kind::kMap)
    return fmt::format("expected a path, or `path` and `weight`, found {}", detail::describe_node(node));
  const OptionNode* path = node.find("path");
  for (const auto& [key, value] : node.entries) {
    const bool is_path = key == "path";
    if (!is_path && key != "weight") return fmt::format("unknown key `{}`; known are path, weight", key);
    const std::string problem = is_path ? detail::read_value(value, {}, file.path)
                                        : detail::read_value(value, weight_range(), file.weight);
    if (problem.empty()) continue;
    const bool is_named = !is_path && path != nullptr && path->kind == OptionNode::Kind::kScalar;
    return fmt::format("`{}`{}: {}", key, is_named ? " of " + path->text : "", problem);
  }
  return file.path.empty() ? "`path` is missing" : "";
}

bool read_file_entry(const nlohmann::json& json, WeightedFile& file) {
  if (json.is_string()) return detail::read_value(json, file.path);
  if (!json.is_object() || !json.contains("path") || json.size() > 2) return false;
  if (!detail::read_value(json["path"], file.path)) return false;
  if (json.size() == 1) return true;
  return json.contains("weight") && detail::read_value(json["weight"], file.weight) && file.weight > 0 &&
         file.weight <= WeightedFile::kMostWeight;
}

}  // namespace

std::string DataFiles::read(const OptionNode& node) {
  files.clear();
  if (node.kind != OptionNode::Kind::kList) return read_file_entry(node, files.emplace_back());
  if (node.items.empty()) return "expected at least one file, found an empty list";
  for (const OptionNode& item : node.items) {
    const std::string problem = read_file_entry(item, files.emplace_back());
    if (!problem.empty()) return fmt::format("file {}: {}", files.size(), problem);
  }
  return "";
}

bool DataFiles::read(const nlohmann::json& json) {
  files.clear();
  if (!json.is_array()) return read_file_entry(json, files.emplace_back());
  bool fits = !json.empty();
  for (size_t i = 0; fits && i < json.size(); ++i) fits = read_file_entry(json[i], files.emplace_back());
  return fits;
}

bool DataFiles::has_weights() const {
  for (const WeightedFile& file : files) {
    if (file.weight != 1.0) return true;
  }
  return false;
}

std::string DataFiles::text() const {
  std::string all;
  for (const WeightedFile& file : files) {
    if (!all.empty()) all += ", ";
    all += file.path;
    if (file.weight != 1.0) all += fmt::format(" (weight {})", file.weight);
  }
  return all;
}

}  // namespace msplora
