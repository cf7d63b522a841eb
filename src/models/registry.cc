#include "models/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "models/config_reader.h"
#include "msplora/core/error.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

const std::vector<Family>& families() {
#define MSPLORA_CALL_FAMILY(name) name##_family(),
  static const std::vector<Family> all = {MSPLORA_FAMILIES(MSPLORA_CALL_FAMILY)};
#undef MSPLORA_CALL_FAMILY
  return all;
}

[[noreturn]] void throw_unknown(const ModelConfig& config, const std::vector<std::string>& known) {
  throw Error(
      ErrorCode::kModel, config.where + ": model_type",
      fmt::format("`{}` is not supported; supported are {}", config.model_type, fmt::join(known, ", ")),
      did_you_mean(config.model_type, known));
}

bool has_task(const Family& family, ModelTask task) {
  return std::find(family.tasks.begin(), family.tasks.end(), task) != family.tasks.end();
}

}  // namespace

std::string task_name(ModelTask task) {
  switch (task) {
    case ModelTask::kNone:
      return "hidden states";
    case ModelTask::kSequenceClassification:
      return "sequence classification";
    case ModelTask::kMaskedLm:
      return "masked language modelling";
    case ModelTask::kCausalLm:
      return "causal language modelling";
  }
  return "?";
}

const Family* find_family(const std::string& model_type) {
  for (const Family& family : families()) {
    if (family.model_type == model_type) return &family;
  }
  return nullptr;
}

const Family* find_gguf_family(const std::string& architecture) {
  for (const Family& family : families()) {
    if (!architecture.empty() && family.gguf.architecture == architecture) return &family;
  }
  return nullptr;
}

std::string known_gguf_architectures() {
  std::string names;
  for (const Family& family : families()) {
    const std::string& name = family.gguf.architecture;
    // Of families that share a name (Mistral's files are Llama's) the first counts.
    if (name.empty() || find_gguf_family(name) != &family) continue;
    names += (names.empty() ? "" : ", ") + name;
  }
  return names;
}

std::string class_name(const Family& family, ModelTask task) {
  switch (task) {
    case ModelTask::kNone:
      return family.class_prefix + "Model";
    case ModelTask::kSequenceClassification:
      return family.class_prefix + "ForSequenceClassification";
    case ModelTask::kMaskedLm:
      return family.class_prefix + "ForMaskedLM";
    case ModelTask::kCausalLm:
      return family.causal_lm_class.empty() ? family.class_prefix + "ForCausalLM" : family.causal_lm_class;
  }
  return family.class_prefix;
}

Architecture describe(const ModelConfig& config, ModelTask task, std::optional<double> dropout) {
  const Family* family = find_family(config.model_type);
  if (family == nullptr) {
    std::vector<std::string> known;
    for (const Family& other : families()) known.push_back(other.model_type);
    throw_unknown(config, known);
  }
  if (task != ModelTask::kNone && !family->tasks.empty() && !has_task(*family, task)) {
    throw Error(ErrorCode::kModel, config.where,
                fmt::format("model_type `{}` cannot be used for {}", config.model_type, task_name(task)));
  }
  detail::ConfigReader reader(config.raw, config.where);
  reader.set_num_labels(config.num_labels);
  reader.set_dropout(dropout);
  Architecture architecture = family->describe(reader, task);
  reader.throw_if_any();
  return architecture;
}

std::vector<std::string> supported_model_types() {
  std::vector<std::string> types;
  for (const Family& family : families()) {
    if (!family.tasks.empty()) types.push_back(family.model_type);
  }
  return types;
}

void require_supported(const ModelConfig& config) {
  const Family* family = find_family(config.model_type);
  if (family == nullptr || family->tasks.empty()) throw_unknown(config, supported_model_types());
}

bool supports_task(const std::string& model_type, ModelTask task) {
  const Family* family = find_family(model_type);
  return family != nullptr && has_task(*family, task);
}

bool is_language_model(const ModelConfig& config) {
  const Family* family = find_family(config.model_type);
  if (family == nullptr || !has_task(*family, ModelTask::kCausalLm)) return false;
  const std::string name = class_name(*family, ModelTask::kCausalLm);
  return std::find(config.architectures.begin(), config.architectures.end(), name) !=
         config.architectures.end();
}

std::vector<std::string> default_target_modules(const std::string& model_type) {
  const Family* family = find_family(model_type);
  return family == nullptr ? std::vector<std::string>() : family->default_targets;
}

}  // namespace msplora
