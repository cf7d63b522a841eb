#pragma once

#include <memory>
#include <string>
#include <vector>

#include "msplora/gguf/file.h"
#include "msplora/gguf/naming.h"
#include "msplora/models/architecture.h"
#include "msplora/models/model_config.h"

/// What a model and a GGUF file of it have to do with each other, for reading and writing. The names follow
/// from the Architecture; what else a family has of its own in GGUF stands in its file (models/families).
namespace msplora {

/// general.architecture of the models of this type: "llama"; empty where there is none.
std::string gguf_architecture(const std::string& model_type);

/// Every parameter of the model below a classifier's head, in the order that checkpoints are written in, with
/// what it is called in GGUF. A tied output layer has an entry too: a file without it is one of a tied model.
/// Throws Error{kModel} for models that GGUF files are not known of.
std::vector<GgufName> gguf_names(const ModelConfig& config);

/// Whether llama.cpp finds an output layer of its own in models of this type, which an adapter may change:
/// where it is the table of words, most files do without one.
bool gguf_adapts_output(const std::string& model_type, bool is_tied);

/// The weight of one linear layer, as gguf_names() has it; `stored` is empty where models of this
/// type have no such tensor. Biases have the same name and treatment, with ".bias" at the end.
GgufName gguf_linear_name(const std::string& model_type, LinearRole role, int64_t layer,
                          const std::string& path, int64_t heads, int64_t kv_heads);

/// A key of config.json and the one of GGUF that has its value; behind "ARCHITECTURE.".
struct GgufSetting {
  const char* config;
  const char* gguf;
  enum Kind { kInteger, kReal } kind;
  bool is_required = false;  // in a file
};
/// The settings that the models of this type have in both, one by one.
const std::vector<GgufSetting>& gguf_settings(const std::string& model_type);

/// The model that a GGUF file holds, as its config.json would say it. Throws Error{kModel} with what would
/// have been read for an unknown architecture or an adapter, and Error{kFormat} naming the key where one is
/// missing, is of the wrong kind, or says what no model here computes.
ModelConfig gguf_model_config(const GgufFile& file);

}  // namespace msplora
