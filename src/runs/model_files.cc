#include "msplora/runs/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "msplora/core/dtype_names.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/data/label_map.h"
#include "msplora/gguf/file.h"
#include "msplora/nn/device.h"
#include "msplora/tasks/task.h"

namespace msplora {
namespace fs = std::filesystem;

at::ScalarType parse_dtype(const std::string& given) {
  const std::string name = usual_dtype_name(given);
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  throw Error(ErrorCode::kUsage, "dtype",
              fmt::format("expected float32, bfloat16 or float16, found `{}`", name),
              did_you_mean(name, {"float32", "bfloat16", "float16"}));
}

AttentionHeads attention_heads(const ModelConfig& config) {
  const Architecture architecture = describe(config);
  return {architecture.heads(), architecture.kv_heads()};
}

AdapterTarget target_of_config(const ModelConfig& config, ModelTask task, const std::string& name) {
  const Architecture architecture = describe(config, task);
  AdapterTarget target;
  target.model_type = config.model_type;
  target.base_name = name;
  target.num_layers = architecture.num_layers();
  target.heads = attention_heads(config);
  target.sites = sites_of_shape(architecture);
  return target;
}

int64_t longest_sequence(const ModelConfig& config) {
  return describe(config).longest;
}

int64_t effective_max_length(int64_t wanted, const ModelConfig& config) {
  const int64_t longest = longest_sequence(config);
  return wanted > 0 ? std::min(wanted, longest) : longest;
}

ModelConfig load_supported_config(const fs::path& directory) {
  ModelConfig config = load_model_config(directory);
  require_supported(config);
  return config;
}

std::vector<std::string> class_names(const ModelConfig& config) {
  std::vector<std::string> names;
  if (LabelMap::is_placeholder(config.id2label)) return names;
  for (const auto& [index, name] : config.id2label) names.push_back(name);
  return names;
}

std::shared_ptr<const Tokenizer> load_tokenizer(const fs::path& directory, const ModelConfig& config) {
  auto tokenizer = Tokenizer::load(directory);
  const int64_t rows = describe(config).vocab_size();
  if (static_cast<int64_t>(tokenizer->vocab_size()) > rows) {
    throw Error(ErrorCode::kModel, directory.string(),
                fmt::format("the tokenizer has {} tokens, the model only {} rows for them",
                            tokenizer->vocab_size(), rows),
                "tokenizer and config.json belong to different models");
  }
  return tokenizer;
}

ChatTemplate named_chat_template(const std::string& name_or_file,
                                 std::map<std::string, std::string> special_tokens) {
  std::error_code code;
  if (fs::is_regular_file(name_or_file, code))
    return ChatTemplate(read_file(name_or_file), std::move(special_tokens), name_or_file);
  return ChatTemplate::named(name_or_file, std::move(special_tokens));
}

std::shared_ptr<const ChatTemplate> chat_template_of(const ChatDataOptions& options, const fs::path& model) {
  if (options.uses_models_template()) {
    auto own = ChatTemplate::of_model(model);
    return own ? std::make_shared<const ChatTemplate>(std::move(*own)) : nullptr;
  }
  std::map<std::string, std::string> tokens = ChatTemplate::special_tokens_of(model);
  return std::make_shared<const ChatTemplate>(named_chat_template(options.chat_template, std::move(tokens)));
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  if (is_gguf_path(from)) return Tokenizer::load(from)->save(to);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model",
                           "spiece.model", "tekken.json", "chat_template.jinja", "generation_config.json"}) {
    if (path_exists(from / name)) write_file_atomically(to / name, read_file(from / name));
  }
  for (const fs::path& entry : entries_of(from))
    if (entry.extension() == ".tiktoken") write_file_atomically(to / entry.filename(), read_file(entry));
}

at::ScalarType stored_dtype(const fs::path& path) {
  const auto source = open_weights(path, load_model_config(path));
  std::map<at::ScalarType, size_t> bytes;
  for (const std::string& name : source->names()) {
    size_t size = c10::elementSize(source->dtype(name));
    for (const int64_t extent : source->shape(name)) size *= static_cast<size_t>(extent);
    bytes[source->dtype(name)] += size;
  }
  at::ScalarType best = at::kFloat;
  size_t most = 0;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    if (bytes[dtype] > most) {
      best = dtype;
      most = bytes[dtype];
    }
  }
  return best;
}

ModelLoadOptions load_options(const ModelOptions& model, const TrainOptions& train, ModelTask head,
                              int64_t num_labels) {
  ModelLoadOptions options;
  options.task = head;
  options.num_labels = num_labels;
  options.compute_dtype = parse_dtype(train.dtype);
  options.device = parse_device(train.device);
  options.seed = static_cast<uint64_t>(train.seed);
  options.random_init = model.random_init;
  options.dropout = train.dropout;
  return options;
}

std::unique_ptr<Model> open_model(const ModelOptions& model, const ModelConfig& config,
                                  const ModelLoadOptions& options, ModelLoadReport* report) {
  if (!model.random_init) return load_model(model.path, options, report);
  return create_model(config, options);
}

}  // namespace msplora
