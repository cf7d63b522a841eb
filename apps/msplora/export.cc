#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <string>

#include "model_arguments.h"
#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

struct ExportArguments {
  ModelArguments model;
  std::string to = "peft";
  std::string type = "f32";  // of GGUF
  std::string output;
  bool overwrite = false;
};

void export_adapter(const ExportArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  refuse_input_as_output(arguments.output, {arguments.model.model, arguments.model.adapter});
  const bool is_gguf = arguments.to == "gguf";
  if (!is_gguf && arguments.type != "f32")
    throw Error(ErrorCode::kUsage, "--type", "has an effect with --format gguf alone", "leave it out");
  if (is_gguf) {
    prepare_output_file(arguments.output, arguments.overwrite);
  } else {
    prepare_output_directory(arguments.output, arguments.overwrite);
  }
  const TunedModel tuned = open_tuned(arguments.model, common);
  if (is_gguf) {
    save_gguf_adapter(*tuned.adapter, parse_gguf_type(arguments.type), arguments.output);
  } else if (arguments.to == "peft") {
    save_peft_adapter(*tuned.adapter, arguments.output);
  } else {
    save_native_adapter(*tuned.adapter, arguments.output);
  }
  if (!is_gguf) save_task_facts(tuned.facts, arguments.output);
  const int64_t count = tuned.adapter->trainable_count(ParameterGroup::kAdapter);
  if (common.json) {
    print_json({{"output", arguments.output},
                {"form", arguments.to},
                {"method", tuned.adapter->config().method},
                {"adapted_layers", tuned.adapter->sites().size()},
                {"adapter_parameters", count}});
    return;
  }
  std::cout << fmt::format("wrote {} ({} form, method {}, {} adapted layers)\n", arguments.output,
                           arguments.to, tuned.adapter->config().method, tuned.adapter->sites().size());
}

}  // namespace

Command add_export(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("export", "Write an adapter in PEFT's, the native or llama.cpp's form");
  auto arguments = std::make_shared<ExportArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/true);
  command->add_option("--format,--to", arguments->to, "Form to write; `gguf`: a file for llama.cpp")
      ->required()
      ->check(CLI::IsMember({"peft", "native", "gguf"}));
  command->add_option("--type", arguments->type, "Type of the factors in a GGUF file")
      ->check(CLI::IsMember(gguf_type_names()));
  command->add_option("--output", arguments->output, "Directory, or GGUF file, to write")
      ->required()
      ->type_name("PATH");
  command->add_flag("--overwrite", arguments->overwrite,
                    "Write into a directory that is not empty, or over a file");
  add_common(*command, common);
  return {command, [arguments, &common] {
            find_files(arguments->model);
            export_adapter(*arguments, common);
          }};
}

}  // namespace msplora
