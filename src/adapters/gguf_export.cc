// Writes an adapter whose update is a sum of low-rank terms as llama.cpp reads it: factors by the names of
// the base's tensors, y += alpha / rank · B (A x), one alpha for all.
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "adapters/method.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/gguf/quantise.h"
#include "msplora/gguf/writer.h"
#include "msplora/io/gguf_weights.h"
#include "msplora/models/gguf.h"
#include "nn/low_rank_terms.h"

namespace msplora {
namespace {

[[noreturn]] void refuse_gguf(const std::string& reason) {
  throw Error(ErrorCode::kUsage, "GGUF", "a GGUF adapter cannot hold " + reason,
              "merge it into a model: msplora merge --format gguf");
}

std::string names_of(const Adapter& adapter, ParameterGroup group) {
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group == group) return entry.name;
  }
  return {};
}

void check_form(const Adapter& adapter) {
  if (const std::string reason = detail::no_files(adapter); !reason.empty())
    throw Error(ErrorCode::kUsage, "GGUF", reason);
  const auto& no_form = detail::method_of(adapter).peft.no_lora_form;
  if (const std::string reason = no_form ? no_form(adapter) : std::string(); !reason.empty())
    refuse_gguf(fmt::format("method {}: {}", adapter.config().method, reason));
  if (adapter.config().use_dora) refuse_gguf("the magnitudes of DoRA");
  if (const std::string bias = names_of(adapter, ParameterGroup::kBias); !bias.empty())
    refuse_gguf(fmt::format("trained biases ({} ...)", bias));
  if (const std::string head = names_of(adapter, ParameterGroup::kHead); !head.empty())
    refuse_gguf(fmt::format("modules that are trained whole ({} ...)", head));
}

GgufRows rows_of_factor(const at::Tensor& factor) {
  const at::Tensor values = factor.detach().to(at::kCPU, at::kFloat).contiguous();
  return [values](int64_t begin, int64_t end, float* to) {
    const int64_t width = values.size(1);
    std::memcpy(to, values.data_ptr<float>() + begin * width,
                static_cast<size_t>((end - begin) * width) * sizeof(float));
  };
}

}  // namespace

void save_gguf_adapter(const Adapter& adapter, GgufType type, const std::filesystem::path& path) {
  const c10::NoGradGuard no_grad;
  check_form(adapter);
  const AdapterTarget& target = adapter.target();
  const std::string architecture = gguf_architecture(target.model_type);
  if (architecture.empty()) refuse_gguf(fmt::format("what belongs to models of type {}", target.model_type));
  GgufWriter file;
  file.set(gguf_key::kArchitecture, architecture);
  file.set(gguf_key::kType, "adapter");
  file.set(gguf_key::kAdapterType, "lora");
  std::set<int64_t> ranks;
  std::vector<std::tuple<GgufName, detail::Stacked, bool>> pairs;  // and whether rows of A are looked up
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    const Site& site = adapter.sites()[i];
    const detail::Stacked pair = detail::stack(adapter.terms(i), {});
    if (!pair.down.defined()) continue;
    const GgufName name =
        gguf_linear_name(target.model_type, site.role, site.layer, site.path,
                         target.heads.num_attention_heads, target.heads.num_key_value_heads);
    const bool is_words = site.role == LinearRole::kWords;
    // Tensors are known by name there, and an output layer that is the table of words has the table's.
    if (is_words || site.role == LinearRole::kOutput) {
      const bool is_apart = gguf_adapts_output(target.model_type, !target.ties.empty());
      if (!is_apart && is_words)
        refuse_gguf(fmt::format("an update of {}, which is the output layer too: llama.cpp takes it for both",
                                site.path));
      if (!is_apart)
        refuse_gguf(
            fmt::format("an update of {}, which is the table of words: models have no output layer of "
                        "their own then",
                        site.path));
    }
    if (name.stored.empty())
      refuse_gguf(fmt::format("an update of {}, which its models do not have", site.path));
    ranks.insert(pair.down.size(0));
    pairs.emplace_back(name, pair, is_words);
  }
  if (pairs.empty()) refuse_gguf("an adapter without any update");
  // alpha / rank is 1 where all ranks are equal; 0 stands for 1 where they are not.
  file.set_number(gguf_key::kAdapterAlpha, ranks.size() == 1 ? static_cast<double>(*ranks.begin()) : 0.0);
  for (const auto& [name, pair, is_words] : pairs) {
    const int64_t out = pair.up.size(0), rank = pair.down.size(0);
    const at::Tensor down = is_words ? pair.down.t() : pair.down;
    const at::Tensor up = name.interleaved_heads > 0
                              ? rows_in_order(pair.up, rows_in_file(out, name.interleaved_heads))
                              : pair.up;
    file.add(name.stored + ".lora_a", fitting_type(type, down.size(1)), {down.size(0), down.size(1)},
             rows_of_factor(down));
    file.add(name.stored + ".lora_b", fitting_type(type, rank), {out, rank}, rows_of_factor(up));
  }
  file.write(path);
}

}  // namespace msplora
