#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "msplora/data/batch.h"
#include "msplora/data/batching.h"

namespace msplora {

/// Encoded examples by number, wherever they lie: a vector, a corpus, a part of others. What stands behind
/// the functions is not owned and must outlive them.
struct Examples {
  size_t size = 0;
  std::function<uint32_t(size_t)> length;         // in tokens, without reading the example
  std::function<TokenizedExample(size_t)> get;    // throws Error{kUsage} for a number that does not exist
  std::function<std::string(size_t)> where = {};  // "train.tsv:17", for messages; may be empty
  DrawWeights draws = {};                         // of epochs of training
  bool is_labelled = true;                        // whether labels and targets are part of the examples

  /// What `where` gives, else "number 4".
  std::string name(size_t index) const;
};

/// All of a vector.
Examples all_of(const std::vector<TokenizedExample>& examples, std::function<std::string(size_t)> where = {});
Examples all_of(std::vector<TokenizedExample>&&, std::function<std::string(size_t)> = {}) = delete;
/// Those at `indices`, in that order.
Examples part_of(const Examples& whole, std::vector<uint32_t> indices);

/// Lengths in tokens, for BatchPlan.
std::vector<uint32_t> lengths_of(const Examples& examples);
/// Changes when an example does: a resumed run must find it unchanged.
uint64_t fingerprint_of(const Examples& examples);

/// Lays examples end to end: input_ids, token_type_ids, cu_seqlens and examples of a batch. An example of
/// several sequences (TokenizedExample::starts) gives as many. Throws Error{kUsage} for an empty batch, an
/// empty example, type_ids of another length than ids, or starts that are not ascending places in it.
Batch pack(std::span<const TokenizedExample> examples, std::span<const uint32_t> indices);

}  // namespace msplora
