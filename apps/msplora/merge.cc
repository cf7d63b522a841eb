#include "msplora/adapters/merge.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/random.h"
#include "msplora/io/safetensors.h"
#include "msplora/nn/dtype.h"
#include "msplora/train/runtime.h"
#include "program.h"
#include "session.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct MergeArguments {
  ModelArguments model;
  std::string output;
  std::string save_dtype = "auto";
  bool overwrite = false;
};

/// Sequences of several lengths with random tokens, on which merged and unmerged logits are compared.
std::vector<PackedInput> sample_inputs(const ModelConfig& config) {
  const auto vocab = static_cast<uint64_t>(describe(config).vocab_size());
  RandomStream random(1, "merge samples");
  std::vector<PackedInput> samples;
  for (const int64_t wanted : {4, 17, 64}) {
    const int64_t length = std::min(wanted, longest_sequence(config));
    PackedInput sample;
    sample.input_ids = at::empty({length}, at::kLong);
    for (int64_t i = 0; i < length; ++i) {
      // Not the padding token: some models give it no position.
      int64_t id = config.pad_token_id.value_or(-1);
      while (id == config.pad_token_id.value_or(-1)) {
        id = static_cast<int64_t>(random.below(vocab));
      }
      sample.input_ids[i] = id;
    }
    sample.cu_seqlens = {0, static_cast<int32_t>(length)};
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// The type that most values of the checkpoint are stored in.
at::ScalarType stored_dtype(const fs::path& directory) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  std::map<at::ScalarType, size_t> bytes;
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.info(name);
    bytes[info.dtype] += info.end - info.begin;
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

void merge(const MergeArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const fs::path output = arguments.output;
  refuse_input_as_output(output, {arguments.model.model, arguments.model.adapter});
  prepare_output_directory(output, arguments.overwrite);
  Session session = open_session(arguments.model, common);
  const at::ScalarType dtype = arguments.save_dtype == "auto" ? stored_dtype(arguments.model.model)
                                                              : parse_dtype(arguments.save_dtype);
  const std::vector<PackedInput> samples = sample_inputs(session.model->config());
  const std::vector<at::Tensor> adapted = sample_logits(*session.model, samples);
  const MergeReport report = merge_adapter(*session.adapter, dtype);
  session.task()->describe(session.model->mutable_config());
  save_model(*session.model, output, dtype);
  copy_tokenizer_files(arguments.model.model, output);
  // Class names are in config.json now; how the text was cut and read is not.
  save_task_facts(session.facts, output);

  // What counts is what lies on the disk now, rounded to its type: read it back, with room for it.
  session.adapter.reset();
  session.model.reset();
  ModelLoadOptions options;
  options.device = device_of(common);
  const LogitDifference difference =
      compare_logits(adapted, sample_logits(*load_model(output, options), samples));
  if (common.json) {
    print_json({{"output", arguments.output},
                {"merged_layers", report.sites},
                {"dtype", dtype_name(dtype)},
                {"largest_logit_difference", difference.largest},
                {"largest_logit", difference.largest_logit}});
    return;
  }
  const std::string what = report.sites > 0 ? fmt::format("merged {} layers", report.sites)
                                            : std::string("took over the trained parameters");
  std::cout << fmt::format("{} into {} ({})\n", what, arguments.output, dtype_name(dtype))
            << fmt::format(
                   "largest logit difference, files written and adapter: {:.3g} (largest logit {:.3g})\n",
                   difference.largest, difference.largest_logit);
}

}  // namespace

Command add_merge(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("merge", "Add an adapter to the weights: a complete model directory");
  auto arguments = std::make_shared<MergeArguments>();
  command->add_option("--model", arguments->model.model, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--adapter", arguments->model.adapter, "Adapter directory (native or PEFT form)")
      ->required()
      ->type_name("DIR");
  add_labels_argument(*command, arguments->model);
  command->add_option("--output", arguments->output, "Directory to write")->required()->type_name("DIR");
  command
      ->add_option("--save-dtype", arguments->save_dtype, "Type of the saved weights; `auto`: as in the base")
      ->transform(dtype_choice({"auto", "float32", "bfloat16", "float16"}));
  command->add_flag("--overwrite", arguments->overwrite, "Write into a directory that is not empty");
  add_common(*command, common);
  return {command, [arguments, &common] { merge(*arguments, common); }};
}

}  // namespace msplora
