#include "panel.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "msplora/kernels/gemm.h"
#include "msplora/kernels/isa.h"
#include "msplora/models/memory_estimate.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/recipe_file.h"
#include "msplora/train/runtime.h"
#include "msplora/train/training_data.h"
#include "program.h"

namespace msplora {

std::string Panel::text() const {
  std::string out;
  for (const Line& line : lines_)
    out += fmt::format("  {:<11} {}\n", printable_line(line.subject), printable_line(line.text));
  return out;
}

std::string weights_line(const Model& model) {
  WeightBytes bytes;
  std::string form;
  for (const Parameter& parameter : const_cast<Model&>(model).parameters()) {
    if (!parameter.weight || !parameter.weight->frozen()) continue;
    const FrozenWeight& weight = *parameter.weight->frozen();
    bytes.heap += weight.bytes().heap;
    bytes.mapped += weight.bytes().mapped;
    if (form.find(weight.form()) == std::string::npos) form += (form.empty() ? "" : "; ") + weight.form();
  }
  return form.empty() ? std::string() : fmt::format("{}: {}", form, bytes_text(bytes.heap + bytes.mapped));
}

std::string depth_text(const Architecture& architecture) {
  const std::string layers = fmt::format("{} layers", architecture.num_runs());
  if (architecture.order.empty()) return layers;
  return layers + fmt::format(" sharing {} block{}", architecture.num_layers(),
                              architecture.num_layers() == 1 ? "" : "s");
}

std::string model_line(const Model& model, const std::string& path, bool random_init) {
  int64_t count = 0;
  for (const Parameter& parameter : const_cast<Model&>(model).parameters()) count += parameter.numel();
  const Architecture& architecture = model.architecture();
  return fmt::format("{} of {}, {}, hidden size {}, {:.1f}M parameters{}", architecture.model_type, path,
                     depth_text(architecture), architecture.hidden_size(), static_cast<double>(count) / 1e6,
                     random_init ? ", weights drawn at random" : "");
}

std::string head_line(const Run& run) {
  if (start_brings_head(run.recipe.adapter)) return "the adapter's";
  if (run.recipe.model.random_init) return {};
  const std::vector<std::string>& fresh = run.report.fresh;
  if (fresh.empty()) {
    const std::vector<std::string> names = class_names(run.config);
    return names.empty() ? "the base's own" : fmt::format("the base's own, trained for {}", shortened(names));
  }
  const std::string reason = run.report.replaced_head();
  return fmt::format("fresh, drawn with seed {}: {}{}{}", run.recipe.train.seed, shortened(fresh),
                     reason.empty() ? "" : "; ", reason);
}

std::string sites_line(const std::vector<Site>& sites) {
  if (sites.empty()) return "none";
  std::map<std::string, int64_t> counts;
  for (const Site& site : sites) {
    ++counts[fmt::format("{} [{}, {}]", site.module, site.out_features, site.in_features)];
  }
  std::vector<std::string> kinds;
  for (const auto& [kind, count] : counts) kinds.push_back(fmt::format("{} x {}", kind, count));
  return fmt::format("{} layers: {}", sites.size(), fmt::join(kinds, ", "));
}

std::string trainable_line(const std::vector<TrainableTensor>& trainable) {
  int64_t total = 0, bias = 0, head = 0;
  std::map<int64_t, int64_t> levels;
  for (const TrainableTensor& tensor : trainable) {
    const int64_t count = tensor.tensor.numel();
    total += count;
    if (tensor.group == ParameterGroup::kAdapter) levels[tensor.level] += count;
    if (tensor.group == ParameterGroup::kBias) bias += count;
    if (tensor.group == ParameterGroup::kHead) head += count;
  }
  int64_t adapter = 0;
  std::vector<std::string> by_level;
  for (const auto& [level, count] : levels) {
    adapter += count;
    by_level.push_back(with_commas(count));
  }
  std::string text = fmt::format("{}: adapter {}", with_commas(total), with_commas(adapter));
  if (by_level.size() > 1) text += fmt::format(" (levels {})", fmt::join(by_level, " + "));
  if (bias > 0) text += fmt::format(", biases {}", with_commas(bias));
  return text + fmt::format(", head {}", with_commas(head));
}

std::string method_state_line(const Adapter& adapter, const std::string& optimizer) {
  int64_t bytes = 0;
  const AdapterState state = adapter.state(optimizer);
  for (const auto* tensors : {&state.tensors, &state.training}) {
    for (const NamedTensor& tensor : *tensors) bytes += static_cast<int64_t>(tensor.tensor.nbytes());
  }
  return bytes == 0 ? "" : fmt::format("{} kept by the method, in every checkpoint", bytes_text(bytes));
}

std::string part_line(const EncodedPart& part) {
  return part.summary.text();
}

void add_data_lines(const RunData& data, Panel& panel) {
  for (const auto* notes : {&data.train.data.notes(), &data.notes}) {
    for (const std::string& note : *notes) panel.add("data", note);
  }
  panel.add("train", part_line(data.train));
  for (const auto* parts : {&data.validation, &data.test}) {
    for (const EncodedPart& part : *parts) panel.add(part.name, part_line(part));
  }
}

std::string compute_line(const TrainOptions& train, int threads) {
  std::string type = train.dtype;
  if (type == "float32" && train.matmul_precision != "exact") {
    const bool has_parts = kernels::matmul_precision(kernels::active_isa()) != kernels::Precision::kExact;
    type += has_parts ? fmt::format(", products of precision `{}`", train.matmul_precision)
                      : fmt::format(" (precision `{}` needs matrix units: products are exact)",
                                    train.matmul_precision);
  }
  return fmt::format("{} on {} threads, seed {}", type, threads, train.seed);
}

std::string optimizer_line(const TrainOptions& train) {
  std::string text = fmt::format("{}, lr {}", train.optimizer == "sgd" ? "SGD" : "AdamW", train.lr);
  if (train.head_lr) text += fmt::format(" (head {})", *train.head_lr);
  text += fmt::format(", {}", train.schedule);
  if (train.warmup_steps > 0) text += fmt::format(" after {} warm-up steps", train.warmup_steps);
  if (train.warmup_ratio > 0) text += fmt::format(" after {:.0f}% warm-up", 100 * train.warmup_ratio);
  text += fmt::format(", weight decay {}", train.weight_decay);
  return text + (train.clip_norm > 0 ? fmt::format(", clipped at {}", train.clip_norm) : "");
}

std::string batch_line(const TrainOptions& train, double mean_length) {
  std::string text;
  if (train.token_budget) {
    text = fmt::format("up to {} tokens (about {:.0f} sequences)", *train.token_budget,
                       static_cast<double>(*train.token_budget) / std::max(1.0, mean_length));
  } else {
    const int64_t size = batch_options(train).batch_size;
    text = fmt::format("{} sequences (about {:.0f} tokens)", size, static_cast<double>(size) * mean_length);
  }
  return train.accumulation > 1 ? fmt::format("{}, {} of them for a step", text, train.accumulation) : text;
}

std::string memory_line(const MemoryEstimate& estimate) {
  return fmt::format(
      "about {} (weights {}, trained part {}, activations {}), on top of {} of the program itself",
      bytes_text(estimate.total()), bytes_text(estimate.weights), bytes_text(estimate.trainable),
      bytes_text(estimate.activations), bytes_text(program_memory_bytes()));
}

}  // namespace msplora
