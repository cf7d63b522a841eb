#include "tokenizers/bpe_merges.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

namespace msplora::detail {
namespace {

constexpr uint32_t kNotJoined = std::numeric_limits<uint32_t>::max();

// Up to here looking at every pair for every merge beats a heap.
constexpr size_t kSmallWord = 48;

// Rank and place of a candidate in one number, so that the smallest is the next to be joined.
uint64_t candidate(uint32_t rank, size_t at) {
  return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(at);
}

}  // namespace

BpeMerges::BpeMerges(size_t count) {
  size_t size = 64;
  while (size < 2 * count) size *= 2;
  slots_.resize(size);
}

void BpeMerges::set(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  if (2 * (used_ + 1) > slots_.size()) {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key == std::numeric_limits<uint64_t>::max()) continue;
      slots_[locate(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key & 0xFFFFFFFFU))] =
          slot;
    }
  }
  Slot& slot = slots_[locate(left, right)];
  used_ += slot.merged < 0;
  slot = {key(left, right), rank, merged};
}

void BpeMerges::apply(ModelScratch& scratch) const {
  const bool sizes = !scratch.sizes.empty();
  if (scratch.symbols.size() <= kSmallWord)
    sizes ? apply_small<true>(scratch) : apply_small<false>(scratch);
  else
    sizes ? apply_large<true>(scratch) : apply_large<false>(scratch);
}

template <bool kSizes>
void BpeMerges::apply_small(ModelScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& pairs = scratch.pairs;
  pairs.clear();
  const auto look_up = [&](size_t left) -> ModelScratch::Pair {
    const Pair pair = find(symbols[left], symbols[left + 1]);
    return {pair.rank, pair.merged};
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs.push_back(look_up(i));
  while (!pairs.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < pairs.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNotJoined) return;
    symbols[best] = pairs[best].merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    if constexpr (kSizes) {
      scratch.sizes[best] += scratch.sizes[best + 1];
      scratch.sizes.erase(scratch.sizes.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(best));
    if (best > 0) pairs[best - 1] = look_up(best - 1);
    if (best < pairs.size()) pairs[best] = look_up(best);
  }
}

// The same in n log n: a heap of candidates over a linked list of symbols. pairs[i] is the pair that begins
// with symbol i as it stands; a candidate of another rank is out of date.
template <bool kSizes>
void BpeMerges::apply_large(ModelScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& sizes = scratch.sizes;
  auto& pairs = scratch.pairs;
  auto& heap = scratch.heap;
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  const size_t count = symbols.size();
  pairs.assign(count, {kNotJoined, -1});
  next.resize(count);
  previous.resize(count);
  heap.clear();
  const auto look_up = [&](size_t left, size_t right) {
    const Pair pair = find(symbols[left], symbols[right]);
    pairs[left] = {pair.rank, pair.merged};
    return pair.rank != kNotJoined;
  };
  for (size_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
    if (i + 1 < count && look_up(i, i + 1)) heap.push_back(candidate(pairs[i].rank, i));
  }
  const auto push = [&](size_t left) {
    heap.push_back(candidate(pairs[left].rank, left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    const size_t left = top & 0xFFFFFFFFU;
    if (pairs[left].rank != top >> 32) continue;
    const size_t right = next[left];
    symbols[left] = pairs[left].merged;
    if constexpr (kSizes) sizes[left] += sizes[right];
    pairs[right].rank = kNotJoined;
    pairs[left].rank = kNotJoined;
    next[left] = next[right];
    if (next[left] < count) {
      previous[next[left]] = left;
      if (look_up(left, next[left])) push(left);
    }
    if (left > 0 && look_up(previous[left], left)) push(previous[left]);
  }
  size_t kept = 0;
  for (size_t i = 0; i < count; i = next[i], ++kept) {
    symbols[kept] = symbols[i];
    if constexpr (kSizes) sizes[kept] = sizes[i];
  }
  symbols.resize(kept);
  if constexpr (kSizes) sizes.resize(kept);
}

}  // namespace msplora::detail
