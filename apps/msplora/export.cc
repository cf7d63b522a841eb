#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "model_arguments.h"
#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/train/runtime.h"
#include "output_directory.h"
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

/// Of two forms in one directory readers take one, which then is not the one just written.
void refuse_other_form(const ExportArguments& arguments) {
  const AdapterForm there = adapter_form(arguments.output);
  const bool is_native = there == AdapterForm::kNative;
  if (arguments.to == "gguf" || (!is_native && there != AdapterForm::kPeft)) return;
  if (is_native == (arguments.to == "native")) return;
  throw Error(ErrorCode::kUsage, "--output",
              fmt::format("{} holds an adapter in {} form already, and only one of them would be read",
                          arguments.output, is_native ? "the native" : "PEFT's"),
              "write to another directory");
}

void export_adapter(const ExportArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  refuse_input_as_output(arguments.output, {arguments.model.model, arguments.model.adapter});
  const bool is_gguf = arguments.to == "gguf";
  if (!is_gguf && arguments.type != "f32")
    throw Error(ErrorCode::kUsage, "--type", "has an effect with --format gguf alone", "leave it out");
  refuse_other_form(arguments);
  std::optional<OutputDirectory> directory;
  if (is_gguf) {
    refuse_packed_name(arguments.output, "--output");
    prepare_output_file(arguments.output, arguments.overwrite);
  } else {
    directory.emplace(arguments.output, arguments.overwrite);
  }
  const TunedModel tuned = open_tuned(arguments.model, common);
  if (is_gguf && tuned.model->task() != ModelTask::kCausalLm) {
    throw Error(
        ErrorCode::kUsage, "--format",
        fmt::format("GGUF: llama.cpp's models write text, this adapter is for {}", tuned.facts.type),
        "msplora predict uses it as it is; --format peft or a merged directory (msplora merge) take it "
        "elsewhere");
  }
  if (is_gguf) {
    save_gguf_adapter(*tuned.adapter, parse_gguf_type(arguments.type), arguments.output);
  } else if (arguments.to == "peft") {
    save_peft_adapter(*tuned.adapter, arguments.output);
  } else {
    save_native_adapter(*tuned.adapter, arguments.output);
  }
  if (!is_gguf) save_task_facts(tuned.facts, arguments.output);
  if (directory) directory->keep();
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
