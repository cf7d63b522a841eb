#include "msplora/models/architecture.h"

#include <algorithm>

namespace msplora {

const LinearSpec* BlockSpec::find(LinearRole role) const {
  for (const LinearSpec& linear : linears) {
    if (linear.role == role) return &linear;
  }
  return nullptr;
}

int64_t BlockSpec::intermediate_size() const {
  const LinearSpec* down = find(LinearRole::kDown);
  return down == nullptr ? 0 : down->in;
}

int64_t Architecture::short_length() const {
  int64_t length = 0;
  for (const RotarySpec& spec : rotaries) {
    if (!spec.long_frequencies.empty()) length = spec.original_length;
  }
  return length;
}

int64_t Architecture::runs_of(size_t block) const {
  return order.empty() ? 1 : std::count(order.begin(), order.end(), block);
}

std::vector<PlacedLinear> linears_of(const Architecture& architecture) {
  std::vector<PlacedLinear> all;
  if (const auto words = word_table(architecture)) all.push_back({words->name, -1, *words});
  if (const auto& projection = architecture.embeddings.projection)
    all.push_back({projection->name, -1, *projection});
  for (size_t layer = 0; layer < architecture.blocks.size(); ++layer) {
    const BlockSpec& block = architecture.blocks[layer];
    for (const LinearSpec& linear : block.linears)
      all.push_back({block.path + "." + linear.name, static_cast<int64_t>(layer), linear});
  }
  if (const auto output = output_layer(architecture)) {
    all.push_back({output->name, -1, *output});
  } else {
    for (const HeadStage& stage : architecture.head.stages)
      all.push_back({stage.linear.name, -1, stage.linear});
  }
  return all;
}

std::optional<LinearSpec> word_table(const Architecture& architecture) {
  const EmbeddingSpec& e = architecture.embeddings;
  if (e.words.empty()) return std::nullopt;
  return LinearSpec{LinearRole::kWords, e.path + "." + e.words, e.rows, e.width, /*has_bias=*/false};
}

std::optional<LinearSpec> output_layer(const Architecture& architecture) {
  const HeadSpec& head = architecture.head;
  if (head.decoder.empty()) return std::nullopt;
  const EmbeddingSpec& e = architecture.embeddings;
  return LinearSpec{LinearRole::kOutput, head.decoder, e.width, e.rows, !head.decoder_bias.empty()};
}

std::vector<std::string> trained_modules(const HeadSpec& head) {
  std::vector<std::string> modules;
  for (const HeadStage& stage : head.stages) {
    if (stage.trained_if_absent) continue;
    for (const std::string& module : stage.modules) {
      if (std::find(modules.begin(), modules.end(), module) == modules.end()) modules.push_back(module);
    }
  }
  return modules;
}

std::vector<TiedName> tied_names(const Architecture& architecture) {
  if (!architecture.head.is_tied) return {};
  return {{architecture.head.decoder + ".weight", word_table(architecture)->name + ".weight"}};
}

}  // namespace msplora
