#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/parameter_store.h"
#include "msplora/models/model.h"

namespace msplora {

/// How one model_type is built. A new architecture is one source file and one row in registry.cc.
struct Architecture {
  std::string model_type;
  std::string base_prefix;  // of the parameters below the head, e.g. "roberta."
  std::vector<ModelTask> tasks;
  std::function<std::unique_ptr<Model>(const ModelConfig&, const ModelLoadOptions&, ParameterStore&)> build;
  std::string head_prefix;  // of the tensors of its classification head, e.g. "classifier."
  /// Prefixes of checkpoint names that a task does not use (the heads of other tasks).
  std::function<std::vector<std::string>(ModelTask)> ignorable;
  /// Hugging Face's class name, for config.json.
  std::function<std::string(ModelTask)> class_name;
};

Architecture bert_architecture();
Architecture roberta_architecture();
/// Llama and the decoders that differ from it by what config.json says; `class_prefix` is that of Hugging
/// Face's classes.
Architecture llama_architecture(const std::string& model_type, const std::string& class_prefix);

}  // namespace msplora
