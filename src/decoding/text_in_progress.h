#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "msplora/decoding/generator.h"
#include "msplora/generation/beam_search.h"
#include "msplora/generation/stop_strings.h"
#include "msplora/models/key_value_cache.h"
#include "msplora/tokenizers/decode_stream.h"

namespace msplora {

/// A text that a generator is writing: what the model has read of it, and what follows from the scores of its
/// next token. With beams it is several texts, of which each has its sequence in the cache.
class TextInProgress {
 public:
  /// `prompt` are the tokens of the request, of which the cache holds the first `read` in `sequence`; the
  /// text may get `room` tokens.
  TextInProgress(size_t index, GenerationRequest request, std::vector<int32_t> prompt,
                 std::shared_ptr<const Tokenizer> tokenizer, int64_t room);

  size_t index() const { return index_; }
  /// Texts that this one may become.
  size_t width() const { return static_cast<size_t>(request_.options.num_beams); }
  bool is_done() const { return is_done_; }
  /// Asks the request, and ends the text where it is told so.
  void ask_whether_cancelled();

  void begin(KeyValueCache::Sequence sequence, size_t read);
  const std::vector<KeyValueCache::Sequence>& sequences() const { return sequences_; }
  /// What the model has not read yet of the text in sequences()[i].
  std::span<const int32_t> unread(size_t i) const;
  /// The model has read so many of the unread tokens of each.
  void has_read(size_t tokens) { read_ += tokens; }
  /// Tokens that the model may come to read of it.
  int64_t longest() const {
    return static_cast<int64_t>(prompt_length_) + request_.options.max_new_tokens - 1;
  }
  std::span<const int32_t> prompt() const { return std::span(ids_).first(prompt_length_); }
  bool is_reading_prompt() const { return read_ < prompt_length_; }
  /// Nothing of what follows it.
  bool has_just_read_prompt() const { return read_ == prompt_length_; }
  /// Whether the model would read the same of both prompts.
  bool begins_as(const TextInProgress& other) const {
    return longest() == other.longest() && std::ranges::equal(prompt(), other.prompt());
  }
  /// All that the model has read of a text without beams.
  std::span<const int32_t> read_tokens() const { return std::span(ids_).first(read_); }

  /// `scores` holds a row of `vocabulary` for each of the sequences, which the cache changes with the texts.
  void advance(std::span<const float> scores, size_t vocabulary, KeyValueCache& cache);

  Generation take_result();

 private:
  void take_token(int32_t token);
  void advance_beams(std::span<const float> scores, size_t vocabulary, KeyValueCache& cache);
  void finish(FinishReason reason);
  void show(std::string_view text);
  bool is_end(int32_t token) const;

  size_t index_;
  GenerationRequest request_;
  FinishReason at_limit_;  // why it ends at max_new_tokens, which are within the room
  std::vector<int32_t> ids_;
  size_t prompt_length_;
  size_t read_ = 0;
  std::vector<KeyValueCache::Sequence> sequences_;
  std::optional<BeamSearch> beams_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<DecodeStream> stream_;
  StopStrings stops_;
  Generation result_;
  bool is_done_ = false;
};

}  // namespace msplora
