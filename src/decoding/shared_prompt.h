#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "decoding/text_in_progress.h"
#include "msplora/models/key_value_cache.h"

namespace msplora {

/// What the model has read of a prompt that several texts begin with: its keys and values, and the scores of
/// the token behind it.
class SharedPrompt {
 public:
  /// Of a text that has read its prompt and nothing else.
  void keep(const TextInProgress& text, std::span<const float> scores, KeyValueCache& cache);
  void forget(KeyValueCache& cache);
  /// Whether the text begins with it.
  bool serves(const TextInProgress& text) const;
  /// The text goes on from there.
  void begin(TextInProgress& text, KeyValueCache& cache) const;

 private:
  std::optional<KeyValueCache::Sequence> sequence_;
  std::vector<int32_t> prompt_;
  int64_t longest_ = 0;
  std::vector<float> scores_;
};

}  // namespace msplora
