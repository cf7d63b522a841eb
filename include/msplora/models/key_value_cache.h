#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "msplora/models/architecture.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora {

/// What a decoder remembers of the texts that it goes on with: keys, turned to their positions, and values of
/// every block, so that each token passes through the model once. Grows as texts do; a layer that slides
/// keeps what its window can still see.
///
/// Rows of all texts lie in one array for each block, [rows, 2 kv_heads head_dim], keys beside values. The
/// text of a sequence is one range of rows there, the same in all blocks with one window.
class KeyValueCache {
 public:
  using Sequence = size_t;

  KeyValueCache(const Architecture& architecture, at::ScalarType dtype, at::Device device = at::kCPU);

  /// A text without tokens, with room for those that are expected where everything is kept. `longest`: what
  /// it may grow to. A model with other angles for long texts (Architecture::short_length) needs to know it
  /// from the first token on, since keys are kept as they were turned; llama.cpp chooses by the size of its
  /// context in the same way, while transformers reads a text anew when it passes that length.
  Sequence start(int64_t expected_tokens = 0, int64_t longest = 0);
  /// A text that begins with the same tokens. They are copied.
  Sequence fork(Sequence sequence);
  void end(Sequence sequence);
  /// Tokens that the model has read of a text.
  int64_t length(Sequence sequence) const;
  /// Forgets all but the first `length` tokens of a text, which may then grow to `longest`. False, with
  /// nothing changed, where a layer that slides has given up keys that the next token would see, or where a
  /// text that may grow so long has other angles.
  bool cut(Sequence sequence, int64_t length, int64_t longest = 0);
  /// Of the arrays.
  int64_t bytes() const;

  class Extension;

 private:
  /// Where the keys of a text lie: those of the places first to first + count - 1.
  struct Range {
    int64_t begin = 0, capacity = 0;
    int64_t first = 0, count = 0;
  };
  /// The blocks with one window.
  struct Group {
    int64_t window_left = -1;  // -1: everything is kept
    std::vector<size_t> blocks;
    int64_t rows = 0;
    std::map<Sequence, Range> ranges;

    int64_t kept(const Range& range) const;
  };

  Group& group_of(size_t block) { return groups_[group_of_block_[block]]; }
  const Range& range_of(Sequence sequence) const;
  /// Makes room behind what must be kept of a text.
  void make_room(Group& group, Sequence sequence, int64_t tokens);
  /// The beginning of so many free rows, -1 where there are none side by side.
  static int64_t free_rows(const Group& group, int64_t wanted);
  void move_rows(const Group& group, int64_t from, int64_t to, int64_t count);
  /// Arrays in which the ranges stand side by side, with so many rows for this one.
  void rebuild(Group& group, Sequence sequence, int64_t wanted);
  bool is_long(int64_t tokens) const { return short_length_ > 0 && tokens > short_length_; }
  /// The angles of positions below `positions`.
  const std::vector<RotaryTable>& rotary_tables(int64_t positions);

  const Architecture* architecture_;
  at::ScalarType dtype_;
  at::Device device_;
  std::vector<at::Tensor> arrays_;  // of each block
  std::vector<Group> groups_;
  std::vector<size_t> group_of_block_;
  std::vector<RotaryTable> tables_;
  int64_t table_positions_ = 0;
  int64_t short_length_ = 0;
  std::set<Sequence> long_;  // texts that turn as long ones do
  Sequence next_ = 0;
};

/// A pass over further tokens of some texts. Their keys and values are stored block by block; the texts are
/// longer once `commit` says that the pass came to its end.
class KeyValueCache::Extension {
 public:
  /// Tokens cu_seqlens[i] to cu_seqlens[i + 1] - 1 of the pass continue sequences[i]. Throws Error{kUsage}
  /// for a sequence that is not there or comes twice, and for one that grows beyond
  /// Architecture::short_length without having been started for it.
  Extension(KeyValueCache& cache, std::span<const Sequence> sequences, std::vector<int32_t> cu_seqlens);

  /// The place of the first token that sequence i gets.
  int64_t start(int64_t i) const { return starts_[static_cast<size_t>(i)]; }
  /// Places of all tokens of the pass, int32 [T].
  const at::Tensor& positions() const { return positions_; }
  const std::vector<RotaryTable>& rotary_tables() const { return *tables_; }
  /// Rows in tables with angles for long texts; undefined: the positions.
  const at::Tensor& long_rows() const { return long_rows_; }

  /// Stores the keys and values of `input` and returns a call's input and segments over all that the queries
  /// may see.
  AttentionInput append(size_t block, const AttentionInput& input, const AttentionShape& shape);
  const std::vector<AttentionSegment>& segments(size_t block) const;

  void commit();

 private:
  void store(size_t block, const at::Tensor& from, int64_t column, int64_t width, int64_t to_column);

  KeyValueCache& cache_;
  std::vector<Sequence> sequences_;
  std::vector<int32_t> cu_seqlens_;
  std::vector<int64_t> starts_;
  std::vector<std::vector<AttentionSegment>> segments_;  // of each group
  std::vector<std::vector<int64_t>> rows_;               // of each group: where the new tokens of i begin
  at::Tensor positions_, long_rows_;
  const std::vector<RotaryTable>* tables_ = nullptr;
};

}  // namespace msplora
