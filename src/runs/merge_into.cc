#include <ATen/ops/empty.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/nn/dtype.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/tuned_model.h"
#include "runs/merge_samples.h"

namespace msplora {
namespace fs = std::filesystem;

std::vector<PackedInput> merge_samples(const ModelConfig& config, int64_t longest) {
  const auto vocab = static_cast<uint64_t>(describe(config).vocab_size());
  RandomStream random(1, "merge samples");
  std::vector<PackedInput> samples;
  for (const int64_t wanted : {4, 17, 64}) {
    const int64_t length = std::min(wanted, longest);
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

MergedFiles merge_into(TunedModel tuned, const fs::path& base, const fs::path& output,
                       const std::string& save_dtype) {
  MergedFiles merged;
  const at::ScalarType dtype = save_dtype == "auto" ? stored_dtype(base) : parse_dtype(save_dtype);
  merged.type = dtype_name(dtype);
  const at::Device device = tuned.model->device();
  const ModelTask head = tuned.model->task();
  const std::vector<PackedInput> samples =
      merge_samples(tuned.model->config(), longest_sequence(tuned.model->config()));
  const std::vector<at::Tensor> adapted = sample_logits(*tuned.model, samples);
  if (tuned.adapter) merged.sites = merge_adapter(*tuned.adapter, dtype).sites;
  tuned.task()->describe(tuned.model->mutable_config());
  save_model(*tuned.model, output, dtype);
  copy_tokenizer_files(base, output);
  // A template of the adapter's own is the model's from now on.
  if (ChatDataOptions& chat = tuned.facts.data.chat; tuned.chat_template && !chat.uses_models_template()) {
    write_file_atomically(output / "chat_template.jinja", tuned.chat_template->source());
    chat.chat_template = ChatDataOptions::kModelsTemplate;
  }
  // Class names are in config.json now; how the text was cut and read is not.
  save_task_facts(tuned.facts, output);
  tuned.adapter.reset();
  tuned.model.reset();
  ModelLoadOptions options;
  options.task = head;
  options.device = device;
  merged.difference = compare_logits(adapted, sample_logits(*load_model(output, options), samples));
  return merged;
}

}  // namespace msplora
