#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "tokenizers/model.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {

/// Which neighbouring symbols byte-pair encoding joins, and in which order: the pair of lowest rank first, of
/// equal ranks the leftmost.
class BpeMerges {
 public:
  /// Room for `count` pairs.
  explicit BpeMerges(size_t count);

  void set(int32_t left, int32_t right, uint32_t rank, int32_t merged);

  /// Joins scratch.symbols until no pair can be joined. Where scratch.sizes is as long as the symbols, the
  /// sizes of what is joined are added up; else it must be empty.
  void apply(ModelScratch& scratch) const;

  struct Pair {
    uint32_t rank = std::numeric_limits<uint32_t>::max();  // this one: not joined
    int32_t merged = -1;
  };
  Pair find(int32_t left, int32_t right) const {
    const Slot& slot = slots_[locate(left, right)];
    return {slot.rank, slot.merged};
  }

 private:
  struct Slot {
    uint64_t key = std::numeric_limits<uint64_t>::max();
    uint32_t rank = std::numeric_limits<uint32_t>::max();
    int32_t merged = -1;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t locate(int32_t left, int32_t right) const {
    const uint64_t wanted = key(left, right);
    const size_t mask = slots_.size() - 1;
    size_t at = mix_hash(0, wanted) & mask;
    while (slots_[at].key != std::numeric_limits<uint64_t>::max() && slots_[at].key != wanted)
      at = (at + 1) & mask;
    return at;
  }
  template <bool kSizes>
  void apply_small(ModelScratch& scratch) const;
  template <bool kSizes>
  void apply_large(ModelScratch& scratch) const;

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

}  // namespace msplora::detail
