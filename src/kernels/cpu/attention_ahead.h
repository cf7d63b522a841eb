#pragma once

// Rows of a head are short pieces of memory that lie far apart, which no processor foresees. While one head
// is computed, those that the next one reads and those that this one writes are brought into the second-level
// cache, a few with each query: all at once they would wait for each other.
#include "kernels/cpu/attention_tile.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename T>
class HeadsAhead {
 public:
  HeadsAhead(const Attention<T>& op, const Tile& tile) : HeadsAhead(op, tile, nullptr) {}
  HeadsAhead(const AttentionBackward<T>& op, const Tile& tile) : HeadsAhead(op.forward, tile, &op) {}

  /// The share of a query of the tile. Inlined by force, as fetch_lines says.
  __attribute__((always_inline)) void bring_with(int64_t query) const {
    const int64_t row = tile_.first_query + query, next = row + (is_last_ ? tile_.queries : 0);
    bring<kRead>(f_.q, f_.q_stride, next, next_head_);
    if (backward_) {
      bring<kRead>(backward_->d_o, f_.o_stride, next, next_head_);
      bring<kWrite>(backward_->dq, f_.q_stride, row, tile_.head);
    } else {
      bring<kWrite>(f_.o, f_.o_stride, row, tile_.head);
    }
    const int64_t end = (query + 1) * keys_a_query_;
    for (int64_t key = query * keys_a_query_; key < end && key < tile_.length; ++key) bring_key(key);
  }

 private:
  static constexpr int kRead = 0, kWrite = 1;

  HeadsAhead(const Attention<T>& f, const Tile& tile, const AttentionBackward<T>* backward)
      : f_(f), tile_(tile), backward_(backward), is_last_(tile.head + 1 == f.heads) {
    const int64_t group = f.heads / f.kv_heads;
    kv_head_ = tile.head / group;
    next_head_ = is_last_ ? 0 : tile.head + 1;
    next_kv_head_ = next_head_ / group;
    const bool ends_group = is_last_ || next_kv_head_ != kv_head_;
    keys_a_query_ = ends_group && tile.queries > 0 ? (tile.length + tile.queries - 1) / tile.queries : 0;
  }

  // Of the last query head that reads a key head.
  __attribute__((always_inline)) void bring_key(int64_t key) const {
    const int64_t row = tile_.first_key + key, next = row + (is_last_ ? tile_.length : 0);
    bring<kRead>(f_.k, f_.k_stride, next, next_kv_head_);
    bring<kRead>(f_.v, f_.v_stride, next, next_kv_head_);
    if (backward_ == nullptr) return;
    bring<kWrite>(backward_->dk, f_.k_stride, row, kv_head_);
    bring<kWrite>(backward_->dv, f_.v_stride, row, kv_head_);
  }

  template <int kUse>
  __attribute__((always_inline)) void bring(const T* rows, int64_t stride, int64_t row, int64_t head) const {
    fetch_lines<kUse, 2>(rows + row * stride + head * tile_.dim, tile_.dim);
  }

  const Attention<T>& f_;
  const Tile& tile_;
  const AttentionBackward<T>* backward_;
  bool is_last_;  // head of a segment: the next one reads the rows behind, as segments mostly lie
  int64_t kv_head_, next_head_, next_kv_head_, keys_a_query_;
};

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
