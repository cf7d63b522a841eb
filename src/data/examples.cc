#include "msplora/data/examples.h"

#include <bit>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

[[noreturn]] void refuse(const std::string& problem) {
  throw Error(ErrorCode::kUsage, "batch", problem);
}

void check_packable(const TokenizedExample& example, uint32_t index) {
  if (example.ids.empty()) refuse(fmt::format("example {} has no tokens", index));
  if (!example.type_ids.empty() && example.type_ids.size() != example.ids.size()) {
    refuse(fmt::format("example {} has {} tokens but {} type ids", index, example.ids.size(),
                       example.type_ids.size()));
  }
  int32_t before = 0;
  for (const int32_t start : example.starts) {
    if (start <= before || static_cast<size_t>(start) >= example.ids.size()) {
      refuse(fmt::format("a sequence of example {} starts at {}, the one before at {}, of {} tokens", index,
                         start, before, example.ids.size()));
    }
    before = start;
  }
}

}  // namespace

std::string Examples::name(size_t index) const {
  return where ? where(index) : fmt::format("number {}", index + 1);
}

Examples all_of(const std::vector<TokenizedExample>& examples, std::function<std::string(size_t)> where) {
  const auto at = [&examples](size_t index) -> const TokenizedExample& {
    if (index >= examples.size())
      refuse(fmt::format("example {} of {} does not exist", index, examples.size()));
    return examples[index];
  };
  Examples all;
  all.size = examples.size();
  all.length = [at](size_t index) { return static_cast<uint32_t>(at(index).ids.size()); };
  all.get = [at](size_t index) { return at(index); };
  all.where = std::move(where);
  return all;
}

Examples part_of(const Examples& whole, std::vector<uint32_t> indices) {
  Examples part = whole;
  part.size = indices.size();
  if (!whole.draws.groups.empty()) {
    part.draws.groups.clear();
    for (const uint32_t index : indices) part.draws.groups.push_back(whole.draws.groups.at(index));
  }
  const auto places = std::make_shared<const std::vector<uint32_t>>(std::move(indices));
  part.length = [whole, places](size_t index) { return whole.length(places->at(index)); };
  part.get = [whole, places](size_t index) { return whole.get(places->at(index)); };
  part.where = [whole, places](size_t index) { return whole.name(places->at(index)); };
  return part;
}

std::vector<uint32_t> lengths_of(const Examples& examples) {
  std::vector<uint32_t> lengths(examples.size);
  for (size_t i = 0; i < examples.size; ++i) lengths[i] = examples.length(i);
  return lengths;
}

uint64_t fingerprint_of(const Examples& examples) {
  uint64_t hash = mix_seed(examples.is_labelled ? 0 : 1, examples.size);
  for (size_t i = 0; i < examples.size; ++i) {
    const TokenizedExample example = examples.get(i);
    for (const auto* numbers : {&example.ids, &example.type_ids, &example.starts}) {
      hash = mix_seed(hash, numbers->size());
      for (const int32_t number : *numbers) hash = mix_seed(hash, static_cast<uint64_t>(number));
    }
    hash = mix_seed(hash, example.predicted.size());
    for (const TokenSpan& span : example.predicted) {
      hash = mix_seed(mix_seed(hash, static_cast<uint64_t>(span.begin)), static_cast<uint64_t>(span.end));
    }
    if (!examples.is_labelled) continue;
    hash = mix_seed(hash, static_cast<uint64_t>(example.label));
    hash = mix_seed(hash, std::bit_cast<uint64_t>(example.target));
  }
  for (const uint32_t group : examples.draws.groups) hash = mix_seed(hash, group);
  for (const double weight : examples.draws.weights) hash = mix_seed(hash, std::bit_cast<uint64_t>(weight));
  return hash;
}

Batch pack(std::span<const TokenizedExample> examples, std::span<const uint32_t> indices) {
  if (indices.empty()) refuse("it is empty");
  size_t tokens = 0;
  bool typed = false;
  for (size_t i = 0; i < examples.size(); ++i) {
    check_packable(examples[i], indices[i]);
    tokens += examples[i].ids.size();
    typed = typed || !examples[i].type_ids.empty();
  }
  if (tokens > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    refuse(fmt::format("{} tokens are too many for one batch", tokens));
  Batch batch;
  batch.input_ids.reserve(tokens);
  if (typed) batch.token_type_ids.reserve(tokens);
  batch.cu_seqlens.push_back(0);
  for (size_t i = 0; i < examples.size(); ++i) {
    const TokenizedExample& example = examples[i];
    const auto begin = static_cast<int32_t>(batch.input_ids.size());
    batch.input_ids.insert(batch.input_ids.end(), example.ids.begin(), example.ids.end());
    if (typed) {
      batch.token_type_ids.insert(batch.token_type_ids.end(), example.type_ids.begin(),
                                  example.type_ids.end());
      batch.token_type_ids.resize(batch.input_ids.size(), 0);
    }
    for (const int32_t start : example.starts) batch.cu_seqlens.push_back(begin + start);
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.examples.insert(batch.examples.end(), example.starts.size() + 1, indices[i]);
  }
  return batch;
}

}  // namespace msplora
