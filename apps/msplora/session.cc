#include "session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/fingerprint.h"
#include "msplora/core/dtype_names.h"
#include "msplora/core/file.h"
#include "msplora/core/log.h"
#include "msplora/nn/device.h"
#include "program.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

bool has_classes(const TaskFacts& facts) {
  return task_kind(facts.type).labels == LabelKind::kClass;
}

int64_t outputs_of(const TaskFacts& facts) {
  return has_classes(facts) ? static_cast<int64_t>(facts.labels.size()) : 1;
}

/// Class names of the base's own head, numbers where config.json has none.
std::vector<std::string> labels_of_base(const ModelConfig& config) {
  const bool is_useful = !LabelMap::is_placeholder(config.id2label);
  std::vector<std::string> names;
  for (int64_t i = 0; i < config.num_labels; ++i) {
    const auto found = config.id2label.find(i);
    names.push_back(is_useful && found != config.id2label.end() ? found->second : std::to_string(i));
  }
  return names;
}

std::vector<std::string> numbers_below(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

/// Puts the names of --labels, or of data.labels in training, on the classes.
void name_classes(const ModelArguments& arguments, bool has_names, Session& session) {
  TaskFacts& facts = session.facts;
  const std::vector<std::string> given = split_names(arguments.labels);
  if (!has_classes(facts)) {
    if (!given.empty())
      throw Error(ErrorCode::kUsage, "--labels", fmt::format("a {} has no classes", facts.type),
                  "leave it out");
    return;
  }
  if (!given.empty()) facts.data.labels = given;
  session.labels = LabelMap::from_list(facts.labels);
  if (!facts.data.labels.empty()) {
    session.labels =
        session.labels->with_numbers(facts.data.labels, given.empty() ? "task.json: labels" : "--labels");
  } else if (!has_names) {
    log_info(fmt::format("the {} classes have no names; give them with --labels NAME,NAME,...",
                         facts.labels.size()));
  }
  facts.labels = session.labels->names();
}

EncodedPart encode_part(const std::string& name, Dataset data, const Task& task, int threads) {
  EncodedPart part;
  part.name = name;
  EncodedDataset encoded = task.encode(data, threads);
  part.data = std::move(data);
  part.examples = std::move(encoded.examples);
  part.summary = encoded.summary;
  return part;
}

}  // namespace

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

AdapterTarget adapter_target(Model& model, const std::string& base_name) {
  AdapterTarget target;
  target.model_type = model.config().model_type;
  target.base_name = base_name;
  target.task_type = model.task() == ModelTask::kSequenceClassification ? "SEQ_CLS"
                     : model.task() == ModelTask::kCausalLm             ? "CAUSAL_LM"
                                                                        : "";
  target.num_layers = model.architecture().num_layers();
  target.heads = {model.architecture().heads(), model.architecture().kv_heads()};
  target.sites = model.sites();
  target.parameters = model.parameters();
  target.head_modules = model.head_modules();
  target.base_fingerprint = fingerprint(target.parameters, target.head_modules);
  return target;
}

int64_t longest_sequence(const ModelConfig& config) {
  return describe(config).longest;
}

ModelConfig load_supported_config(const fs::path& directory) {
  ModelConfig config = load_model_config(directory);
  require_supported(config);
  return config;
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

std::unique_ptr<Model> open_model(const ModelOptions& model, const ModelConfig& config,
                                  const ModelLoadOptions& options, ModelLoadReport* report) {
  if (!model.random_init) return load_model(model.path, options, report);
  return create_model(config, options);
}

std::unique_ptr<Model> open_classifier(const Recipe& recipe, const ModelConfig& config, int64_t num_labels,
                                       ModelLoadReport* report) {
  ModelLoadOptions options;
  options.num_labels = num_labels;
  options.compute_dtype = parse_dtype(recipe.train.dtype);
  options.device = parse_device(recipe.train.device);
  options.seed = static_cast<uint64_t>(recipe.train.seed);
  options.random_init = recipe.model.random_init;
  options.dropout = recipe.train.dropout;
  return open_model(recipe.model, config, options, report);
}

int64_t effective_max_length(int64_t wanted, const ModelConfig& config) {
  const int64_t longest = longest_sequence(config);
  return wanted > 0 ? std::min(wanted, longest) : longest;
}

LabelMap choose_labels(const DataConfig& data, const TaskData& read, const ModelConfig& config) {
  if (!data.labels.empty()) return LabelMap::from_list(data.labels).with_numbers(data.labels, "data.labels");
  if (!read.labels.empty()) return LabelMap::from_list(read.labels);
  const LabelMap found = LabelMap::from_counts(data.train.value_or("data.train"), read.class_counts);
  std::vector<std::string> of_base;
  for (const auto& [index, name] : config.id2label) of_base.push_back(name);
  std::vector<std::string> names = found.names();
  if (std::is_permutation(names.begin(), names.end(), of_base.begin(), of_base.end()))
    return LabelMap::from_list(of_base);
  return found;
}

std::vector<NamedExamples> named(const std::vector<EncodedPart>& parts) {
  std::vector<NamedExamples> named;
  for (const EncodedPart& part : parts) named.push_back({part.name, part.all()});
  return named;
}

PreparedData prepare_data(const Recipe& recipe, const ModelConfig& config,
                          const std::shared_ptr<const Tokenizer>& tokenizer) {
  PreparedData prepared;
  const TaskKind& kind = task_kind(recipe.task.type);
  const TaskParts parts{true, true, recipe.data.test.has_value()};
  TaskData read = load_task_data(recipe.data, kind.labels, static_cast<uint64_t>(recipe.train.seed), parts);
  if (kind.labels == LabelKind::kClass) prepared.labels = choose_labels(recipe.data, read, config);
  prepared.notes = read.notes;
  prepared.max_length = effective_max_length(recipe.data.max_length, config);
  prepared.is_shortened = prepared.max_length < recipe.data.max_length;
  TaskSettings settings;
  settings.labels = prepared.labels;
  settings.tokenizer = tokenizer;
  settings.max_length = prepared.max_length;
  settings.metrics = read.metrics;
  settings.mask.seed = static_cast<uint64_t>(recipe.train.seed);
  prepared.task = make_task(kind.name, std::move(settings));
  const int threads = static_cast<int>(recipe.train.threads);
  prepared.train = encode_part("train", std::move(read.train), *prepared.task, threads);
  for (auto& part : read.validation)
    prepared.validation.push_back(encode_part(part.name, std::move(part.data), *prepared.task, threads));
  for (auto& part : read.test)
    prepared.test.push_back(encode_part(part.name, std::move(part.data), *prepared.task, threads));
  return prepared;
}

std::unique_ptr<Task> Session::task(int64_t max_length, std::vector<std::string> metrics) const {
  TaskSettings settings;
  settings.labels = labels;
  settings.tokenizer = tokenizer;
  settings.max_length = max_length > 0 ? effective_max_length(max_length, model->config()) : facts.max_length;
  settings.metrics = std::move(metrics);
  return make_task(facts.type, std::move(settings));
}

void add_labels_argument(CLI::App& command, ModelArguments& arguments) {
  command
      .add_option("--labels", arguments.labels,
                  "Class names in the order of their numbers, 0 first: for classes without names, and for "
                  "files that hold numbers")
      ->type_name("NAME,NAME,...");
}

void add_model_arguments(CLI::App& command, ModelArguments& arguments, bool adapter_required) {
  command.add_option("--model", arguments.model, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  auto* adapter =
      command.add_option("--adapter", arguments.adapter, "Adapter directory (native or PEFT form)")
          ->type_name("DIR");
  if (adapter_required) adapter->required();
  add_labels_argument(command, arguments);
  command.add_option("--dtype", arguments.dtype, "Type of activations and frozen weights")
      ->transform(dtype_choice({"float32", "bfloat16"}));
}

Session open_session(const ModelArguments& arguments, const CommonOptions& common) {
  Session session;
  const ModelConfig config = load_supported_config(arguments.model);
  ModelLoadOptions options;
  options.compute_dtype = parse_dtype(arguments.dtype);
  options.device = device_of(common);
  // A merged model has its task.json beside it, as an adapter has.
  const bool has_adapter = !arguments.adapter.empty();
  const std::string& described = has_adapter ? arguments.adapter : arguments.model;
  const std::optional<TaskFacts> facts = load_task_facts(described);
  bool has_own_head = false;
  if (has_adapter) {
    const int64_t head_outputs = load_adapter_facts(arguments.adapter).head_outputs;
    has_own_head = head_outputs > 0;
    options.num_labels = facts && has_own_head ? outputs_of(*facts) : head_outputs;
  }
  session.model = load_model(arguments.model, options, &session.report);
  const ModelConfig& base = session.model->config();
  bool has_names = true;
  if (facts) {
    session.facts = *facts;
    if (outputs_of(*facts) != base.num_labels) {
      throw Error(
          ErrorCode::kModel, (fs::path(described) / "task.json").string(),
          fmt::format("names {} classes, the head has {} outputs", outputs_of(*facts), base.num_labels),
          "it belongs to another model: delete it, or copy it again from the run");
    }
  } else {
    session.facts.type = base.num_labels == 1 ? "regression" : "classification";
    // The names of the base are those of the head it was saved with, not of one that was trained later.
    has_names = !has_own_head && !LabelMap::is_placeholder(base.id2label);
    if (has_classes(session.facts))
      session.facts.labels = has_own_head ? numbers_below(base.num_labels) : labels_of_base(base);
  }
  name_classes(arguments, has_names, session);
  session.facts.max_length = effective_max_length(session.facts.max_length, config);
  session.tokenizer = load_tokenizer(arguments.model, config);
  if (!has_own_head && !session.report.fresh.empty()) {
    throw Error(ErrorCode::kModel, arguments.model,
                fmt::format("has no trained head: {} would be random", shortened(session.report.fresh)),
                has_adapter ? "the adapter brings none either; it needs the model whose head it was used with"
                            : "name the adapter that was trained on it with --adapter");
  }
  if (has_adapter)
    session.adapter = load_adapter(arguments.adapter, adapter_target(*session.model, arguments.model));
  return session;
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"}) {
    std::error_code code;
    if (fs::exists(from / name, code)) write_file_atomically(to / name, read_file(from / name));
  }
}

}  // namespace msplora
