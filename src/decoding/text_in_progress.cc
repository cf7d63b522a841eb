#include "decoding/text_in_progress.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/generation/scores.h"

namespace msplora {
namespace {

/// In [0, 1), of one token of one text.
double uniform(const GenerationRequest& request, size_t step) {
  const uint64_t key = mix_seed(static_cast<uint64_t>(request.options.seed), request.number);
  const auto bits = philox4x32(key, step, 0);
  return static_cast<double>((uint64_t{bits[0]} << 21) ^ (bits[1] >> 11)) * 0x1p-53;
}

}  // namespace

TextInProgress::TextInProgress(size_t index, GenerationRequest request, std::vector<int32_t> prompt,
                               std::shared_ptr<const Tokenizer> tokenizer, int64_t room)
    : index_(index),
      request_(std::move(request)),
      at_limit_(room < request_.options.max_new_tokens ? FinishReason::kLongest
                                                       : FinishReason::kMaxNewTokens),
      ids_(std::move(prompt)),
      prompt_length_(ids_.size()),
      tokenizer_(std::move(tokenizer)),
      stops_(request_.options.stop) {
  GenerationOptions& options = request_.options;
  options.max_new_tokens = std::min(options.max_new_tokens, room);
  result_.prompt_tokens = prompt_length_;
  if (options.num_beams > 1) beams_.emplace(options, ids_);
  if (tokenizer_ != nullptr) stream_.emplace(tokenizer_, DecodeStreamOptions{true, /*prompt_bytes=*/true});
}

void TextInProgress::ask_whether_cancelled() {
  if (!is_done_ && request_.is_cancelled && request_.is_cancelled()) finish(FinishReason::kCancelled);
}

void TextInProgress::begin(KeyValueCache::Sequence sequence, size_t read) {
  sequences_ = {sequence};
  read_ = read;
}

std::span<const int32_t> TextInProgress::unread(size_t i) const {
  return std::span(beams_ ? beams_->live()[i] : ids_).subspan(read_);
}

bool TextInProgress::is_end(int32_t token) const {
  const auto& ends = request_.options.eos_token_id;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

void TextInProgress::show(std::string_view text) {
  const std::string certain = stops_.take(text);
  result_.text += certain;
  if (request_.on_text && !certain.empty()) request_.on_text(certain);
}

void TextInProgress::finish(FinishReason reason) {
  is_done_ = true;
  result_.finish_reason = reason;
  if (!stream_) return;
  if (!stops_.has_stopped()) show(stream_->finish());
  if (stops_.has_stopped()) {
    result_.finish_reason = FinishReason::kStopString;
    return;
  }
  const std::string rest = stops_.rest();
  result_.text += rest;
  if (request_.on_text && !rest.empty()) request_.on_text(rest);
}

void TextInProgress::take_token(int32_t token) {
  ids_.push_back(token);
  result_.tokens.push_back(token);
  if (is_end(token)) return finish(FinishReason::kEndToken);
  if (stream_) show(stream_->add(token));
  if (stops_.has_stopped()) return finish(FinishReason::kStopString);
  if (static_cast<int64_t>(result_.tokens.size()) >= request_.options.max_new_tokens) finish(at_limit_);
}

void TextInProgress::advance(std::span<const float> scores, size_t vocabulary, KeyValueCache& cache) {
  if (beams_) return advance_beams(scores, vocabulary, cache);
  const double u = uniform(request_, result_.tokens.size());
  const int32_t token = next_token(request_.options, ids_, prompt_length_, scores, u);
  if (request_.wants_logprobs) result_.logprobs.push_back(log_probability(scores, token));
  take_token(token);
}

void TextInProgress::advance_beams(std::span<const float> scores, size_t vocabulary, KeyValueCache& cache) {
  std::vector<std::vector<double>> rows;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    const auto row = scores.subspan(i * vocabulary, vocabulary);
    rows.emplace_back(row.begin(), row.end());
  }
  beams_->advance(rows);
  if (beams_->is_done()) {
    result_.beams = beams_->best();
    const std::vector<int32_t> tokens = result_.beams.front().tokens;
    for (const int32_t token : tokens) {
      if (!is_done_) take_token(token);
    }
    if (!is_done_) finish(at_limit_);
    return;
  }
  // The first text that goes on from another takes its keys over, further ones get copies.
  std::vector<KeyValueCache::Sequence> next;
  std::vector<bool> is_taken(sequences_.size());
  for (const size_t parent : beams_->parents()) {
    next.push_back(is_taken[parent] ? cache.fork(sequences_[parent]) : sequences_[parent]);
    is_taken[parent] = true;
  }
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (!is_taken[i]) cache.end(sequences_[i]);
  }
  sequences_ = std::move(next);
}

Generation TextInProgress::take_result() {
  return std::move(result_);
}

}  // namespace msplora
