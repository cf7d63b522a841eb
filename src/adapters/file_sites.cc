// What the files of an adapter show of the layers it is for: paths and shapes, by the names of factors.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapters/files_detail.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct FileShape {
  int64_t out = 0, in = 0;
};

/// Shapes of layers by path: lora_A is [r, in], lora_B [out, r], with the number of a level behind the name.
std::map<std::string, FileShape> shapes_of_factors(const AdapterFacts& facts) {
  std::map<std::string, FileShape> shapes;
  for (const auto& [name, shape] : facts.shapes) {
    const size_t down = name.rfind(".lora_A."), up = name.rfind(".lora_B.");
    if (shape.size() != 2 || !name.ends_with(".weight")) continue;
    if (down != std::string::npos) shapes[name.substr(0, down)].in = shape[1];
    if (up != std::string::npos) shapes[name.substr(0, up)].out = shape[0];
  }
  return shapes;
}

/// The first number among the components of a path; -1 without one.
int64_t layer_of_path(const std::string& path) {
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool is_number = !part.empty() && part.size() < 9 &&
                           std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (is_number) return std::stoll(part);
    begin = end + 1;
  }
  return -1;
}

Site site_of(const std::string& path, const FileShape& shape) {
  Site site;
  site.path = path;
  site.module = path.substr(path.rfind('.') + 1);
  site.layer = layer_of_path(path);
  site.in_features = shape.in;
  site.out_features = shape.out;
  site.role = LinearRole::kQuery;  // unknown; nothing that is read without a base depends on it
  return site;
}

/// As save_native_adapter records them.
std::vector<Site> recorded_sites(const nlohmann::json& sites) {
  std::vector<Site> result;
  for (const nlohmann::json& entry : sites) {
    const auto path = entry.at("path").get<std::string>();
    Site site =
        site_of(path, {entry.at("out_features").get<int64_t>(), entry.at("in_features").get<int64_t>()});
    site.layer = entry.at("layer").get<int64_t>();
    site.has_bias = entry.at("bias").get<bool>();
    result.push_back(std::move(site));
  }
  return result;
}

/// Gives the members of a group the shape of its owner, as far as it is known.
void share_shape(const std::string& owner, const nlohmann::json& members,
                 std::map<std::string, FileShape>& shapes) {
  const FileShape shape = shapes[owner];
  for (const nlohmann::json& member : members) {
    FileShape& own = shapes[member.get<std::string>()];
    if (shape.out > 0) own.out = shape.out;
    if (shape.in > 0) own.in = shape.in;
  }
}

/// Sharing plans have two forms: groups of pairs (low_rank.cc), or owners of A and of B (aslora.cc).
void share_shapes(const nlohmann::json& plan, std::map<std::string, FileShape>& shapes) {
  if (plan.contains("groups")) {
    for (const nlohmann::json& group : plan["groups"])
      share_shape(group.at("owner").get<std::string>(), group.at("sites"), shapes);
  } else if (plan.contains("A") && plan.contains("B")) {
    for (const char* side : {"A", "B"}) {
      for (const auto& [owner, members] : plan[side].items()) share_shape(owner, members, shapes);
    }
  }
}

}  // namespace

AdapterTarget target_of_files(const fs::path& directory) {
  const AdapterFacts facts = load_adapter_facts(directory);
  AdapterTarget target;
  target.base_name = facts.base_name;
  std::map<std::string, FileShape> shapes = shapes_of_factors(facts);
  if (facts.form == AdapterForm::kNative) {
    const detail::NativePlan native = detail::native_plan(directory);
    target.model_type = native.model_type;
    target.num_layers = native.num_layers;
    try {
      if (native.sites.is_array()) {
        target.sites = recorded_sites(native.sites);
        if (!target.sites.empty()) return target;
      }
      // Written before sites were recorded.
      if (native.plan.is_object()) share_shapes(native.plan, shapes);
    } catch (const nlohmann::json::exception& error) {
      throw Error(ErrorCode::kFormat, (directory / detail::kNativeConfig).string(), error.what());
    }
  }
  for (const auto& [path, shape] : shapes) {
    if (shape.in > 0 && shape.out > 0) target.sites.push_back(site_of(path, shape));
  }
  if (target.sites.empty() || facts.form == AdapterForm::kGguf) {
    throw Error(ErrorCode::kUsage, directory.string(),
                fmt::format("the tensors of this adapter ({}) do not show which layers they act on",
                            facts.config.method),
                "name the directory of the base; its config.json is enough");
  }
  std::stable_sort(target.sites.begin(), target.sites.end(),
                   [](const Site& a, const Site& b) { return a.layer < b.layer; });
  for (const Site& site : target.sites) target.num_layers = std::max(target.num_layers, site.layer + 1);
  return target;
}

}  // namespace msplora
