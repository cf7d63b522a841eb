#include "model_arguments.h"

#include "msplora/core/error.h"
#include "msplora/runs/adapter_place.h"

namespace msplora {

void add_model_arguments(CLI::App& command, ModelArguments& arguments, bool adapter_required,
                         bool with_dtype) {
  command
      .add_option("--model", arguments.model,
                  "Hugging Face model directory, or a GGUF file; default: the one that the adapter names")
      ->type_name("PATH");
  auto* adapter = command
                      .add_option("--adapter", arguments.adapter,
                                  "Run directory, adapter directory (native or PEFT form), or a GGUF file")
                      ->type_name("PATH");
  if (adapter_required) adapter->required();
  command
      .add_option("--labels", arguments.labels,
                  "Class names in the order of their numbers, 0 first: for classes without names, and for "
                  "files that hold numbers")
      ->type_name("NAME,NAME,...");
  if (!with_dtype) return;
  command.add_option("--dtype", arguments.dtype, "Type of activations and frozen weights")
      ->transform(dtype_choice({"float32", "bfloat16"}));
}

std::string model_or_base(const std::string& model, const std::filesystem::path& adapter) {
  if (!model.empty()) return model;
  if (adapter.empty())
    throw Error(ErrorCode::kUsage, "--model", "is required where no adapter is given", "--model DIR");
  return base_of_adapter(adapter).string();
}

void find_files(ModelArguments& arguments) {
  if (!arguments.adapter.empty()) arguments.adapter = find_adapter(arguments.adapter).adapter.string();
  arguments.model = model_or_base(arguments.model, arguments.adapter);
}

TunedModel open_tuned(const ModelArguments& arguments, const CommonOptions& common) {
  return open_tuned(arguments.model, arguments.adapter,
                    {split_names(arguments.labels), arguments.task, arguments.dtype, device_of(common)});
}

}  // namespace msplora
