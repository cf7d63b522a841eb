// The native form: adapter.json (method, options, sharing plan, base) and adapter.safetensors, which holds
// every trainable tensor once under its own name. docs/adapters-format.md describes both.
#include <fmt/format.h>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/registry.h"
#include "adapters/stored_tensors.h"
#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/core/paths.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/computation.h"

namespace msplora {
namespace {

using nlohmann::json;

constexpr const char* kFormatName = "msplora-adapter";
constexpr int64_t kFormatVersion = 1;

json base_to_json(const AdapterTarget& target) {
  return {
      {"model_type", target.model_type},
      {"name", target.base_name},
      {"num_layers", target.num_layers},
      // As text: JSON readers keep 53 bits of a number.
      {"fingerprint",
       target.base_fingerprint == 0 ? json(nullptr) : json(fmt::format("{:016x}", target.base_fingerprint))},
      {"computation", target.base_computation}};
}

/// The layers that are adapted, in their order: what is needed to read the adapter where the base is not.
json sites_to_json(const Adapter& adapter) {
  json sites = json::array();
  for (const Site& site : adapter.sites()) {
    sites.push_back({{"path", site.path},
                     {"layer", site.layer},
                     {"out_features", site.out_features},
                     {"in_features", site.in_features},
                     {"bias", site.linear != nullptr ? site.linear->bias.defined() : site.has_bias}});
  }
  return sites;
}

/// The part of adapter.json that says what the adapter is for.
struct NativeHeader {
  AdapterConfig config;
  std::string task_type, model_type, base_name, fingerprint;
  int64_t num_layers = 0;
  json plan, state, sites, computation;
};

template <typename T>
T field(const json& from, const char* key, const std::string& where) {
  const auto found = from.find(key);
  if (found == from.end()) throw Error(ErrorCode::kFormat, where + ": " + key, "missing");
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    throw Error(ErrorCode::kFormat, where + ": " + key, "wrong type: " + found->dump());
  }
}

NativeHeader read_header(const std::filesystem::path& path) {
  const std::string where = path.string();
  const json file = detail::read_json_object(path);
  if (field<std::string>(file, "format", where) != kFormatName) {
    throw Error(ErrorCode::kFormat, where + ": format", fmt::format("expected `{}`", kFormatName));
  }
  const auto version = field<int64_t>(file, "version", where);
  if (version != kFormatVersion) {
    throw Error(ErrorCode::kFormat, where + ": version",
                fmt::format("expected {}, found {}", kFormatVersion, version), "written by a newer msplora?");
  }
  NativeHeader header;
  const json config = field<json>(file, "config", where);
  if (!config.is_object()) {
    throw Error(ErrorCode::kFormat, where + ": config", "expected an object of options");
  }
  ErrorList errors;
  read_json(header.config, config, where + ": config", errors);
  errors.throw_if_any(ErrorCode::kFormat, where + ": config");
  header.task_type = field<std::string>(file, "task_type", where);
  const json base = field<json>(file, "base", where);
  header.model_type = field<std::string>(base, "model_type", where + ": base");
  header.base_name = field<std::string>(base, "name", where + ": base");
  header.num_layers = field<int64_t>(base, "num_layers", where + ": base");
  if (base.contains("fingerprint") && base["fingerprint"].is_string())
    header.fingerprint = base["fingerprint"];
  header.computation = base.value("computation", json());
  header.plan = file.value("plan", json());
  header.state = file.value("state", json());
  header.sites = file.value("sites", json());
  return header;
}

void check_base(const NativeHeader& header, const AdapterTarget& target, const std::string& where) {
  ErrorList errors;
  const auto differ = [&](const char* what, const std::string& adapter, const std::string& model) {
    if (!adapter.empty() && !model.empty() && adapter != model) {
      errors.add(where,
                 fmt::format("the adapter was made for {} `{}`, the model has `{}`", what, adapter, model));
    }
  };
  differ("model_type", header.model_type, target.model_type);
  differ("task", header.task_type, target.task_type);
  if (header.num_layers > 0 && target.num_layers > 0) {
    differ("num_layers", std::to_string(header.num_layers), std::to_string(target.num_layers));
  }
  if (errors.empty() && target.base_fingerprint != 0 && !header.fingerprint.empty() &&
      header.fingerprint != fmt::format("{:016x}", target.base_fingerprint)) {
    errors.add(where,
               "the adapter was trained on another base: the model has the same type, but other weights",
               header.base_name.empty() ? "" : fmt::format("it was trained on {}", header.base_name));
  }
  for (const std::string& difference : computation_differences(header.computation, target.base_computation)) {
    errors.add(where,
               fmt::format("the adapter was trained on a base that computes otherwise: {}", difference),
               header.base_name.empty()
                   ? "has config.json been changed?"
                   : fmt::format("it was trained on {}; has config.json been changed?", header.base_name));
  }
  errors.throw_if_any(ErrorCode::kModel, where);
}

}  // namespace

void save_native_adapter(const Adapter& adapter, const std::filesystem::path& directory) {
  if (const std::string reason = detail::no_files(adapter); !reason.empty())
    throw Error(ErrorCode::kUsage, directory.string(), reason, "write its trainable() tensors yourself");
  make_directories(directory);
  std::vector<NamedTensor> tensors;
  for (const TrainableTensor& entry : adapter.trainable()) {
    tensors.push_back({entry.name, entry.tensor.detach().to(at::kCPU)});
  }
  const AdapterState state = adapter.state();
  for (const NamedTensor& entry : state.tensors) {
    tensors.push_back({entry.name, entry.tensor.detach().to(at::kCPU)});
  }
  const AdapterTarget& target = adapter.target();
  json file = {{"format", kFormatName},
               {"version", kFormatVersion},
               {"method", adapter.config().method},
               {"config", to_json(adapter.config())},
               {"task_type", target.task_type},
               {"head_modules", target.head_modules},
               {"base", base_to_json(target)},
               {"sites", sites_to_json(adapter)},
               {"plan", state.plan},
               {"state", state.facts}};
  // The description last: a directory without it holds no adapter.
  write_safetensors(directory / detail::kNativeTensors, tensors, {{"format", "pt"}});
  detail::write_json(directory / detail::kNativeConfig, file);
}

namespace detail {

AdapterFacts native_facts(const std::filesystem::path& directory) {
  const NativeHeader header = read_header(directory / kNativeConfig);
  AdapterFacts facts;
  facts.config = header.config;
  facts.task_type = header.task_type;
  facts.base_name = header.base_name;
  facts.has_run_state = !header.state.is_null();
  const auto file = SafetensorsFile::open(directory / kNativeTensors);
  for (const auto& [name, info] : file->tensors()) facts.shapes[name] = info.shape;
  return facts;
}

NativePlan native_plan(const std::filesystem::path& directory) {
  const NativeHeader header = read_header(directory / kNativeConfig);
  return {header.plan, header.sites, header.model_type, header.base_name, header.num_layers};
}

std::unique_ptr<Adapter> load_native_adapter(const std::filesystem::path& directory, AdapterTarget target,
                                             const AdapterConfig* training) {
  const std::filesystem::path config_path = directory / kNativeConfig,
                              tensor_path = directory / kNativeTensors;
  NativeHeader header = read_header(config_path);
  if (training != nullptr) take_training_options(*training, header.config);
  check_base(header, target, config_path.string());
  const auto file = SafetensorsFile::open(tensor_path);
  std::map<std::string, StoredTensor> stored;
  for (const auto& [name, info] : file->tensors()) stored[name] = {name, file->tensor(name)};

  AdapterBuilder builder{
      ErrorCode::kModel,
      config_path.string(),
      Strictness::kLenient,
      /*values_follow=*/true,
      [&](const std::string& key) { return fmt::format("{}: config.{}", config_path.string(), key); },
      made_for(header.base_name)};
  auto adapter = builder.build(header.config, std::move(target), /*seed=*/0);
  if (!header.state.is_null()) adapter->restore(header.state, RestorePhase::kStructure);
  fill_trainable(*adapter, adapter->state().tensors, stored, tensor_path,
                 [](const std::string& name) { return name; });
  if (adapter->state().plan != header.plan) {
    throw Error(ErrorCode::kModel, config_path.string() + ": plan",
                "the sharing plan of the file differs from the one its options give on this model");
  }
  if (!header.state.is_null()) adapter->restore(header.state, RestorePhase::kValues);
  AdapterBuilder::set_recorded_base(*adapter, header.base_name);
  return adapter;
}

}  // namespace detail
}  // namespace msplora
