#include "decoding/shared_prompt.h"

#include <algorithm>

namespace msplora {

void SharedPrompt::keep(const TextInProgress& text, std::span<const float> scores, KeyValueCache& cache) {
  forget(cache);
  sequence_ = cache.fork(text.sequences().front());
  prompt_.assign(text.prompt().begin(), text.prompt().end());
  longest_ = text.longest();
  scores_.assign(scores.begin(), scores.end());
}

void SharedPrompt::forget(KeyValueCache& cache) {
  if (sequence_) cache.end(*sequence_);
  sequence_.reset();
}

// A text that may grow longer can have other angles (KeyValueCache::start).
bool SharedPrompt::serves(const TextInProgress& text) const {
  return sequence_ && text.longest() == longest_ && std::ranges::equal(text.prompt(), prompt_);
}

void SharedPrompt::begin(TextInProgress& text, KeyValueCache& cache) const {
  text.begin(cache.fork(*sequence_), prompt_.size());
  text.advance(scores_, scores_.size(), cache);
}

}  // namespace msplora
