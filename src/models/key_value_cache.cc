#include "msplora/models/key_value_cache.h"

#include <fmt/format.h>

#include <ATen/ops/empty.h>
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "models/model_parts.h"
#include "msplora/core/error.h"
#include "msplora/nn/attention.h"
#include "nn/sequences.h"

namespace msplora {
namespace {

/// Rows beyond what a text needs at the moment, so that it is not moved with every token.
int64_t with_headroom(int64_t rows) {
  return rows + std::max<int64_t>(32, rows / 4);
}

int64_t row_width(const BlockSpec& block) {
  return 2 * block.attention.shape.kv_heads * block.attention.shape.head_dim;
}

}  // namespace

int64_t KeyValueCache::Group::kept(const Range& range) const {
  return window_left < 0 ? range.count : std::min(range.count, window_left);
}

KeyValueCache::KeyValueCache(const Architecture& architecture, at::ScalarType dtype, at::Device device)
    : architecture_(&architecture),
      dtype_(dtype),
      device_(device),
      short_length_(architecture.short_length()) {
  for (size_t i = 0; i < architecture.blocks.size(); ++i) {
    const BlockSpec& block = architecture.blocks[i];
    const int64_t window = block.attention.shape.window_left;
    const auto has_window = [window](const Group& group) { return group.window_left == window; };
    auto group = std::find_if(groups_.begin(), groups_.end(), has_window);
    if (group == groups_.end()) {
      groups_.push_back({window, {}, 0, {}});
      group = groups_.end() - 1;
    }
    group->blocks.push_back(i);
    group_of_block_.push_back(static_cast<size_t>(group - groups_.begin()));
    arrays_.push_back(at::empty({0, row_width(block)}, at::TensorOptions(dtype).device(device)));
  }
}

KeyValueCache::Sequence KeyValueCache::start(int64_t expected_tokens, int64_t longest) {
  if (is_long(longest)) long_.insert(next_);
  for (Group& group : groups_) {
    group.ranges[next_] = {};
    if (group.window_left < 0 && expected_tokens > 0) make_room(group, next_, expected_tokens);
  }
  return next_++;
}

KeyValueCache::Sequence KeyValueCache::fork(Sequence sequence) {
  range_of(sequence);
  const Sequence made = start();
  if (long_.contains(sequence)) long_.insert(made);
  for (Group& group : groups_) {
    make_room(group, made, group.ranges.at(sequence).count);
    const Range& from = group.ranges.at(sequence);
    Range& to = group.ranges.at(made);
    move_rows(group, from.begin, to.begin, from.count);
    to.first = from.first;
    to.count = from.count;
  }
  return made;
}

void KeyValueCache::end(Sequence sequence) {
  for (Group& group : groups_) group.ranges.erase(sequence);
  long_.erase(sequence);
}

const KeyValueCache::Range& KeyValueCache::range_of(Sequence sequence) const {
  const auto found = groups_.front().ranges.find(sequence);
  if (found == groups_.front().ranges.end())
    throw Error(ErrorCode::kUsage, "key-value cache", "has no sequence " + std::to_string(sequence));
  return found->second;
}

int64_t KeyValueCache::length(Sequence sequence) const {
  const Range& range = range_of(sequence);
  return range.first + range.count;
}

bool KeyValueCache::cut(Sequence sequence, int64_t length, int64_t longest) {
  if (length < 0 || length > this->length(sequence)) {
    throw Error(ErrorCode::kUsage, "key-value cache",
                "cannot cut a text of " + std::to_string(this->length(sequence)) + " tokens to " +
                    std::to_string(length));
  }
  if (is_long(longest) != long_.contains(sequence)) return false;
  for (const Group& group : groups_) {
    const Range& range = group.ranges.at(sequence);
    const int64_t seen = group.window_left < 0 ? length : std::min(length, group.window_left);
    if (range.first > length - seen) return false;
  }
  for (Group& group : groups_) {
    Range& range = group.ranges.at(sequence);
    range.count = length - range.first;
  }
  return true;
}

int64_t KeyValueCache::bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor& array : arrays_) bytes += static_cast<int64_t>(array.nbytes());
  return bytes;
}

int64_t KeyValueCache::free_rows(const Group& group, int64_t wanted) {
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const auto& [sequence, range] : group.ranges) taken.emplace_back(range.begin, range.capacity);
  std::sort(taken.begin(), taken.end());
  int64_t begin = 0;
  for (const auto& [from, capacity] : taken) {
    if (from - begin >= wanted) return begin;
    begin = std::max(begin, from + capacity);
  }
  return group.rows - begin >= wanted ? begin : -1;
}

void KeyValueCache::move_rows(const Group& group, int64_t from, int64_t to, int64_t count) {
  if (count == 0 || from == to) return;
  for (const size_t block : group.blocks) {
    const at::Tensor& array = arrays_[block];
    if (array.is_cpu()) {
      const size_t row = static_cast<size_t>(array.size(1)) * array.element_size();
      char* rows = static_cast<char*>(array.data_ptr());
      std::memmove(rows + static_cast<size_t>(to) * row, rows + static_cast<size_t>(from) * row,
                   static_cast<size_t>(count) * row);
    } else {
      array.narrow(0, to, count).copy_(array.narrow(0, from, count).clone());
    }
  }
}

void KeyValueCache::rebuild(Group& group, Sequence sequence, int64_t wanted) {
  int64_t rows = 0;
  std::map<Sequence, Range> ranges = group.ranges;
  ranges.at(sequence).capacity = wanted;
  for (auto& [other, range] : ranges) {
    range.begin = rows;
    rows += range.capacity;
  }
  for (const size_t block : group.blocks) {
    at::Tensor& array = arrays_[block];
    const at::Tensor grown = at::empty({rows, array.size(1)}, array.options());
    for (const auto& [other, range] : ranges) {
      if (range.count == 0) continue;
      const int64_t from = group.ranges.at(other).begin;
      grown.narrow(0, range.begin, range.count).copy_(array.narrow(0, from, range.count));
    }
    array = grown;
  }
  group.ranges = std::move(ranges);
  group.rows = rows;
}

void KeyValueCache::make_room(Group& group, Sequence sequence, int64_t tokens) {
  Range& range = group.ranges.at(sequence);
  if (range.count + tokens <= range.capacity) return;
  const Range old = range;
  const int64_t kept = group.kept(old), dropped = old.count - kept;
  const int64_t from = old.begin + dropped;
  if (kept + tokens <= old.capacity) {
    range = {old.begin, old.capacity, old.first + dropped, kept};
    return move_rows(group, from, old.begin, kept);
  }
  range = {from, old.capacity - dropped, old.first + dropped, kept};
  const int64_t wanted = with_headroom(kept + tokens);
  const int64_t begin = free_rows(group, wanted);
  if (begin < 0) return rebuild(group, sequence, wanted);
  move_rows(group, from, begin, kept);
  range.begin = begin;
  range.capacity = wanted;
}

const std::vector<RotaryTable>& KeyValueCache::rotary_tables(int64_t positions) {
  if (architecture_->rotaries.empty() || positions <= table_positions_) return tables_;
  table_positions_ =
      std::min(std::max<int64_t>(2 * positions, 256), std::max(architecture_->longest, positions));
  tables_ = msplora::rotary_tables(*architecture_, table_positions_, dtype_, device_);
  return tables_;
}

KeyValueCache::Extension::Extension(KeyValueCache& cache, std::span<const Sequence> sequences,
                                    std::vector<int32_t> cu_seqlens)
    : cache_(cache), sequences_(sequences.begin(), sequences.end()), cu_seqlens_(std::move(cu_seqlens)) {
  std::vector<Sequence> sorted = sequences_;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end() ||
      cu_seqlens_.size() != sequences_.size() + 1)
    throw Error(ErrorCode::kUsage, "key-value cache", "expected each sequence once, with tokens of its own");
  detail::require_ends(cu_seqlens_);
  int64_t longest = 0;
  positions_ = at::empty({cu_seqlens_.back()}, at::kInt);
  int32_t* position = positions_.data_ptr<int32_t>();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    starts_.push_back(cache.length(sequences_[i]));
    const int32_t begin = cu_seqlens_[i], count = cu_seqlens_[i + 1] - begin;
    for (int32_t t = 0; t < count; ++t) position[begin + t] = static_cast<int32_t>(starts_[i]) + t;
    longest = std::max(longest, starts_[i] + count);
  }
  positions_ = positions_.to(cache.device_);
  tables_ = &cache.rotary_tables(longest);
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const int64_t length = starts_[i] + cu_seqlens_[i + 1] - cu_seqlens_[i];
    if (!cache.is_long(length) || cache.long_.contains(sequences_[i])) continue;
    throw Error(ErrorCode::kUsage, "key-value cache",
                fmt::format("text {} grows to {} tokens, but was started for at most {}", i, length,
                            cache.short_length_),
                "say how long it may become when it is started");
  }
  if (!cache.long_.empty()) {
    long_rows_ = rows_of_long_texts(positions_, cu_seqlens_, cache.table_positions_,
                                    [&](size_t i) { return cache.long_.contains(sequences_[i]); });
  }
  for (Group& group : cache.groups_) {
    for (size_t i = 0; i < sequences_.size(); ++i)
      cache.make_room(group, sequences_[i], cu_seqlens_[i + 1] - cu_seqlens_[i]);
  }
  for (const Group& group : cache.groups_) {
    std::vector<AttentionSegment>& segments = segments_.emplace_back();
    std::vector<int64_t>& rows = rows_.emplace_back();
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const Range& range = group.ranges.at(sequences_[i]);
      const int32_t begin = cu_seqlens_[i], count = cu_seqlens_[i + 1] - begin;
      segments.push_back({begin, count, static_cast<int32_t>(range.begin),
                          static_cast<int32_t>(range.count) + count, static_cast<int32_t>(starts_[i]),
                          static_cast<int32_t>(range.first)});
      rows.push_back(range.begin + range.count);
    }
  }
}

void KeyValueCache::Extension::store(size_t block, const at::Tensor& from, int64_t column, int64_t width,
                                     int64_t to_column) {
  const at::Tensor& array = cache_.arrays_[block];
  const std::vector<int64_t>& rows = rows_[cache_.group_of_block_[block]];
  const size_t element = array.element_size();
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t begin = cu_seqlens_[i], count = cu_seqlens_[i + 1] - begin;
    if (!array.is_cpu()) {
      array.narrow(0, rows[i], count)
          .narrow(1, to_column, width)
          .copy_(from.narrow(0, begin, count).narrow(1, column, width));
      continue;
    }
    const char* source = static_cast<const char*>(from.data_ptr());
    char* target = static_cast<char*>(array.data_ptr());
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(target + static_cast<size_t>((rows[i] + t) * array.size(1) + to_column) * element,
                  source + static_cast<size_t>((begin + t) * from.size(1) + column) * element,
                  static_cast<size_t>(width) * element);
    }
  }
}

AttentionInput KeyValueCache::Extension::append(size_t block, const AttentionInput& input,
                                                const AttentionShape& shape) {
  const int64_t width = shape.kv_heads * shape.head_dim;
  const auto rows_of = [&](const AttentionInput::Place& place) {
    return input.arrays[place.array].contiguous();
  };
  const bool is_one = input.k.array == input.v.array && input.v.column == input.k.column + width;
  store(block, rows_of(input.k), input.k.column, is_one ? 2 * width : width, 0);
  if (!is_one) store(block, rows_of(input.v), input.v.column, width, width);
  AttentionInput seen;
  seen.arrays = {input.arrays[input.q.array], cache_.arrays_[block]};
  seen.q = {0, input.q.column};
  seen.k = {1, 0};
  seen.v = {1, width};
  return seen;
}

const std::vector<AttentionSegment>& KeyValueCache::Extension::segments(size_t block) const {
  return segments_[cache_.group_of_block_[block]];
}

void KeyValueCache::Extension::commit() {
  for (Group& group : cache_.groups_) {
    for (size_t i = 0; i < sequences_.size(); ++i)
      group.ranges.at(sequences_[i]).count += cu_seqlens_[i + 1] - cu_seqlens_[i];
  }
}

}  // namespace msplora
