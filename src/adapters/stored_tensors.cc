#include "adapters/stored_tensors.h"

#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/nn/dtype.h"

namespace msplora::detail {
namespace {

bool all_finite(const at::Tensor& tensor) {
  // max |x| carries NaN along, so one reduction answers.
  return tensor.numel() == 0 || at::isfinite(tensor.to(at::kFloat).abs().max()).item<bool>();
}

/// What to do about a head or a layer of another size.
std::string hint_for(const TrainableTensor& entry, const at::Tensor& stored) {
  if (entry.group == ParameterGroup::kHead && stored.dim() == entry.tensor.dim() && stored.dim() > 0 &&
      stored.size(0) != entry.tensor.size(0)) {
    return fmt::format(
        "the adapter was trained with a head of {} outputs, the model has {}: load the model with as "
        "many labels as the adapter",
        stored.size(0), entry.tensor.size(0));
  }
  return "the adapter was made for a base of another shape";
}

struct Comparison {
  std::vector<std::string> missing, misshaped, unexpected, not_finite;
  std::string hint;
};

Comparison compare(const std::vector<TrainableTensor>& wanted,
                   const std::map<std::string, StoredTensor>& stored,
                   const std::function<std::string(const std::string&)>& key_of) {
  Comparison result;
  std::map<std::string, bool> expected;
  for (const TrainableTensor& entry : wanted) {
    expected[entry.name] = true;
    const auto found = stored.find(entry.name);
    if (found == stored.end()) {
      result.missing.push_back(key_of(entry.name));
      continue;
    }
    const auto& [key, tensor] = found->second;
    if (!tensor.is_floating_point() && entry.tensor.is_floating_point()) {
      result.misshaped.push_back(fmt::format("{}: expected floating-point numbers, found {}", key,
                                             dtype_name(tensor.scalar_type())));
    } else if (tensor.sizes() != entry.tensor.sizes()) {
      result.misshaped.push_back(fmt::format("{}: expected [{}], found [{}]", key,
                                             fmt::join(entry.tensor.sizes(), ", "),
                                             fmt::join(tensor.sizes(), ", ")));
      result.hint = hint_for(entry, tensor);
    } else if (tensor.is_floating_point() && !all_finite(tensor)) {
      result.not_finite.push_back(key);
    }
  }
  for (const auto& [name, entry] : stored) {
    if (expected.count(name) == 0) result.unexpected.push_back(entry.key);
  }
  return result;
}

}  // namespace

void fill_trainable(const Adapter& adapter, const std::vector<NamedTensor>& more,
                    const std::map<std::string, StoredTensor>& stored, const std::filesystem::path& file,
                    const std::function<std::string(const std::string&)>& key_of) {
  std::vector<TrainableTensor> wanted = adapter.trainable();
  for (const NamedTensor& entry : more) wanted.push_back({entry.name, entry.tensor});
  Comparison found = compare(wanted, stored, key_of);
  if (adapter.is_shape_only()) found.unexpected.clear();  // heads and biases, which it has not
  if (!found.missing.empty() || !found.misshaped.empty() || !found.unexpected.empty()) {
    throw Error(ErrorCode::kModel, file.string(),
                "the adapter does not fit the model" + list_entries("missing", found.missing) +
                    list_entries("mis-shaped", found.misshaped) +
                    list_entries("unexpected", found.unexpected),
                found.hint);
  }
  if (!found.not_finite.empty()) {
    throw Error(ErrorCode::kNumerics, file.string(),
                "the adapter holds NaN or infinity" + list_entries("tensors", found.not_finite),
                "take an earlier checkpoint");
  }
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : wanted) {
    at::Tensor target = entry.tensor;
    target.copy_(stored.at(entry.name).tensor);
  }
}

std::string list_entries(const std::string& title, const std::vector<std::string>& entries) {
  if (entries.empty()) return {};
  constexpr size_t kShown = 20;
  std::string text = fmt::format("\n  {} ({}):", title, entries.size());
  for (size_t i = 0; i < std::min(kShown, entries.size()); ++i) text += "\n    " + entries[i];
  if (entries.size() > kShown) text += fmt::format("\n    ... and {} more", entries.size() - kShown);
  return text;
}

nlohmann::ordered_json read_json_object(const std::filesystem::path& path) {
  auto json = parse_strict<nlohmann::ordered_json>(read_file(path), path.string());
  if (!json.is_object()) throw Error(ErrorCode::kFormat, path.string(), "expected a JSON object");
  return json;
}

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  try {
    write_file_atomically(path, json.dump(2) + "\n");
  } catch (const nlohmann::json::exception& error) {  // a name that is not UTF-8
    throw Error(ErrorCode::kUsage, path.string(), error.what());
  }
}

}  // namespace msplora::detail
