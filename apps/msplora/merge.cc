#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "model_arguments.h"
#include "msplora/core/file.h"
#include "msplora/train/runtime.h"
#include "output_directory.h"
#include "program.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct MergeArguments {
  ModelArguments model;
  std::string output;
  std::string save_dtype = "auto";
  std::string format = "auto";
  std::string type = "auto";  // of GGUF
  bool overwrite = false;
};

MergedFiles merge_model(const MergeArguments& arguments, const CommonOptions& common) {
  const fs::path output = arguments.output;
  refuse_input_as_output(output, {arguments.model.model, arguments.model.adapter});
  const bool is_gguf =
      arguments.format == "auto" ? output.extension() == ".gguf" : arguments.format == "gguf";
  if (is_gguf ? arguments.save_dtype != "auto" : arguments.type != "auto") {
    throw Error(ErrorCode::kUsage, is_gguf ? "--save-dtype" : "--type",
                fmt::format("has no effect with --format {}", is_gguf ? "gguf" : "hf"),
                is_gguf ? "--type f32, f16, bf16 or q8_0" : "--save-dtype float32, bfloat16 or float16");
  }
  if (!is_gguf) {
    OutputDirectory directory(output, arguments.overwrite);
    const MergedFiles merged =
        merge_into(open_tuned(arguments.model, common), arguments.model.model, output, arguments.save_dtype);
    directory.keep();
    return merged;
  }
  refuse_packed_name(arguments.output, "--output");
  prepare_output_file(output, arguments.overwrite);
  return merge_into_gguf(open_tuned(arguments.model, common), arguments.model.model, output, arguments.type);
}

void merge(const MergeArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const MergedFiles merged = merge_model(arguments, common);
  if (common.json) {
    print_json({{"output", arguments.output},
                {"merged_layers", merged.sites},
                {"dtype", merged.type},
                {"largest_logit_difference", merged.difference.largest},
                {"largest_logit", merged.difference.largest_logit}});
    return;
  }
  const std::string what = arguments.model.adapter.empty() ? "took over the model"
                           : merged.sites > 0              ? fmt::format("merged {} layers", merged.sites)
                                                           : "took over the trained parameters";
  std::cout << fmt::format("{} into {} ({})\n", what, arguments.output, merged.type)
            << fmt::format(
                   "largest logit difference to the files, read again: {:.3g} (largest logit {:.3g})\n",
                   merged.difference.largest, merged.difference.largest_logit);
}

}  // namespace

Command add_merge(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand(
      "merge",
      "Add an adapter to the weights: a complete model directory or GGUF file. Without an adapter the model "
      "itself is written, in another form or type");
  auto arguments = std::make_shared<MergeArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/false, /*with_dtype=*/false);
  command->add_option("--output", arguments->output, "Directory, or GGUF file, to write")
      ->required()
      ->type_name("PATH");
  std::vector<std::string> types = gguf_type_names();
  types.insert(types.begin(), "auto");
  command
      ->add_option(
          "--format", arguments->format,
          "`hf`: a Hugging Face directory; `gguf`: a file for llama.cpp, with tokenizer and chat template; "
          "`auto`: gguf where the name of the output ends so")
      ->check(CLI::IsMember({"auto", "hf", "gguf"}));
  command
      ->add_option(
          "--type", arguments->type,
          "Type of the matrices in a GGUF file; `auto`: as in the base, or f16 where that is not written")
      ->check(CLI::IsMember(types));
  command
      ->add_option("--save-dtype", arguments->save_dtype, "Type of the saved weights; `auto`: as in the base")
      ->transform(dtype_choice({"auto", "float32", "bfloat16", "float16"}));
  command->add_flag("--overwrite", arguments->overwrite,
                    "Write into a directory that is not empty, or over a file");
  add_common(*command, common);
  return {command, [arguments, &common] {
            find_files(arguments->model);
            merge(*arguments, common);
          }};
}

}  // namespace msplora
