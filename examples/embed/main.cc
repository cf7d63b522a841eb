// Classifies texts with a base model and an adapter, through the library alone.
//   embed MODEL_DIR ADAPTER_DIR TEXT...

#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/fingerprint.h"
#include "msplora/core/file.h"
#include "msplora/models/model.h"
#include "msplora/tasks/prediction.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/train/runtime.h"

namespace {

msplora::AdapterTarget target_of(msplora::Model& model, const std::string& name) {
  msplora::AdapterTarget target;
  target.model_type = model.config().model_type;
  target.base_name = name;
  target.task_type = "SEQ_CLS";
  target.num_layers = model.architecture().num_layers();
  target.sites = model.sites();
  target.parameters = model.parameters();
  target.head_modules = model.head_modules();
  target.base_fingerprint = msplora::fingerprint(target.parameters, target.head_modules);
  return target;
}

/// The class names that `msplora train` writes beside an adapter.
std::vector<std::string> class_names(const std::string& adapter) {
  const auto task = nlohmann::json::parse(msplora::read_file(adapter + "/task.json"));
  std::vector<std::string> names;
  for (size_t i = 0; i < task.at("id2label").size(); ++i)
    names.push_back(task["id2label"].at(std::to_string(i)));
  return names;
}

void classify(const std::string& model_path, const std::string& adapter_path,
              const std::vector<std::string>& texts) {
  msplora::use_threads(0);
  const std::vector<std::string> names = class_names(adapter_path);
  msplora::ModelLoadOptions options;
  options.num_labels = static_cast<int64_t>(names.size());
  const auto model = msplora::load_model(model_path, options);
  const auto adapter = msplora::load_adapter(adapter_path, target_of(*model, model_path));
  msplora::TaskSettings settings;
  settings.labels = msplora::LabelMap::from_list(names);
  settings.tokenizer = msplora::Tokenizer::load(model_path);
  settings.max_length = 64;
  const auto task = msplora::make_task("classification", settings);

  std::vector<msplora::Example> rows(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) rows[i].text = texts[i];
  const msplora::EncodedDataset encoded = task->encode({"arguments", rows, /*has_labels=*/false});
  const auto predictions = msplora::predict(*task, *model, msplora::all_of(encoded.examples));
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string& name = predictions[i].text();
    std::printf("%s\t%.6f\t%s\n", name.c_str(), predictions[i].json["probabilities"][name].get<double>(),
                texts[i].c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: embed MODEL_DIR ADAPTER_DIR TEXT...\n");
    return 2;
  }
  try {
    classify(argv[1], argv[2], {argv + 3, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "embed: error: %s\n", error.what());
    return 1;
  }
}
