#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "model_arguments.h"
#include "msplora/core/file.h"
#include "msplora/nn/dtype.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct MergeArguments {
  ModelArguments model;
  std::string output;
  std::string save_dtype = "auto";
  bool overwrite = false;
};

void merge(const MergeArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const fs::path output = arguments.output;
  refuse_input_as_output(output, {arguments.model.model, arguments.model.adapter});
  prepare_output_directory(output, arguments.overwrite);
  const MergedFiles merged =
      merge_into(open_tuned(arguments.model, common), arguments.model.model, output, arguments.save_dtype);
  if (common.json) {
    print_json({{"output", arguments.output},
                {"merged_layers", merged.sites},
                {"dtype", dtype_name(merged.dtype)},
                {"largest_logit_difference", merged.difference.largest},
                {"largest_logit", merged.difference.largest_logit}});
    return;
  }
  const std::string what = merged.sites > 0 ? fmt::format("merged {} layers", merged.sites)
                                            : std::string("took over the trained parameters");
  std::cout << fmt::format("{} into {} ({})\n", what, arguments.output, dtype_name(merged.dtype))
            << fmt::format(
                   "largest logit difference, files written and adapter: {:.3g} (largest logit {:.3g})\n",
                   merged.difference.largest, merged.difference.largest_logit);
}

}  // namespace

Command add_merge(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("merge", "Add an adapter to the weights: a complete model directory");
  auto arguments = std::make_shared<MergeArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/true, /*with_dtype=*/false);
  command->add_option("--output", arguments->output, "Directory to write")->required()->type_name("DIR");
  command
      ->add_option("--save-dtype", arguments->save_dtype, "Type of the saved weights; `auto`: as in the base")
      ->transform(dtype_choice({"auto", "float32", "bfloat16", "float16"}));
  command->add_flag("--overwrite", arguments->overwrite, "Write into a directory that is not empty");
  add_common(*command, common);
  return {command, [arguments, &common] { merge(*arguments, common); }};
}

}  // namespace msplora
