#include "msplora/decoding/generator.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decoding/shared_prompt.h"
#include "decoding/text_in_progress.h"
#include "msplora/core/error.h"
#include "msplora/core/option_io.h"

namespace msplora {
namespace {

/// A pass over the next tokens of the texts in progress.
struct DecodePass {
  std::vector<int32_t> ids;
  std::vector<int32_t> cu_seqlens = {0};
  std::vector<KeyValueCache::Sequence> sequences;
  std::vector<int64_t> output_rows;
  struct Part {
    TextInProgress* text;
    size_t tokens;        // that it reads of each of its sequences
    int64_t scores = -1;  // the first of its rows of scores; -1: its prompt goes on
  };
  std::vector<Part> parts;

  void add(TextInProgress& text, size_t most) {
    const size_t tokens = std::min(text.unread(0).size(), most);
    const bool is_whole = tokens == text.unread(0).size();
    parts.push_back({&text, tokens, is_whole ? static_cast<int64_t>(output_rows.size()) : -1});
    for (size_t i = 0; i < text.sequences().size(); ++i) {
      const auto read = text.unread(i).first(tokens);
      ids.insert(ids.end(), read.begin(), read.end());
      sequences.push_back(text.sequences()[i]);
      cu_seqlens.push_back(static_cast<int32_t>(ids.size()));
      if (is_whole) output_rows.push_back(static_cast<int64_t>(ids.size()) - 1);
    }
  }
};

at::Tensor as_tensor(const std::vector<int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.data_ptr<int64_t>());
  return tensor;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndToken:
      return "end_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kMaxNewTokens:
      return "max_new_tokens";
    case FinishReason::kLongest:
      return "context";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

struct Generator::Impl {
  Model& model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<int64_t> end_tokens;
  GeneratorOptions options;

  /// What a call remembers of texts, for itself alone, and leaves to the next call.
  struct Memory {
    KeyValueCache cache;
    uint64_t age = 0;  // how often the model had changed before its texts were read
    /// The last text, for a request that begins in the same way.
    struct Last {
      std::vector<int32_t> ids;
      KeyValueCache::Sequence sequence;
    };
    std::optional<Last> last;

    void forget() {
      if (last) cache.end(last->sequence);
      last.reset();
    }
    /// Gives the text a place in the cache, beside what it begins with.
    void begin(TextInProgress& text, bool is_alone);
    void end(TextInProgress& text, bool is_kept);
  };

  std::mutex mutex;              // of what follows
  std::unique_ptr<Memory> idle;  // of a call that has ended; null: a call makes its own
  uint64_t age = 0;              // how often the model has changed

  Impl(Model& model, std::shared_ptr<const Tokenizer> tokenizer, std::vector<int64_t> end_tokens,
       const GeneratorOptions& options)
      : model(model), tokenizer(std::move(tokenizer)), end_tokens(std::move(end_tokens)), options(options) {}

  std::unique_ptr<Memory> take();
  void give_back(std::unique_ptr<Memory> memory);
  void forget();

  std::vector<int32_t> prompt_of(const GenerationRequest& request, const std::string& where) const;
  static void check_options(GenerationOptions options, const std::string& where);
  TextInProgress prepare(size_t index, GenerationRequest request, const std::string& where) const;
  /// `on_prompt` sees a text that has read its prompt, with the scores of the next token.
  void run(DecodePass& pass, KeyValueCache& cache,
           const std::function<void(const TextInProgress&, std::span<const float>)>& on_prompt) const;
  std::vector<Generation> write(std::deque<TextInProgress> waiting, Memory& memory,
                                const std::function<void(size_t, const Generation&)>& on_done) const;
};

void Generator::Impl::Memory::begin(TextInProgress& text, bool is_alone) {
  const std::span<const int32_t> prompt = text.unread(0);
  if (last && is_alone) {
    const auto [mine, theirs] =
        std::mismatch(prompt.begin(), prompt.end() - 1, last->ids.begin(), last->ids.end());
    const auto same = static_cast<size_t>(mine - prompt.begin());
    if (same > 0 && cache.cut(last->sequence, static_cast<int64_t>(same), text.longest())) {
      text.begin(last->sequence, same);
      last.reset();
      return;
    }
    forget();
  }
  text.begin(cache.start(static_cast<int64_t>(prompt.size()), text.longest()), 0);
}

void Generator::Impl::Memory::end(TextInProgress& text, bool is_kept) {
  if (is_kept) {
    forget();
    const auto ids = text.read_tokens();
    last = Last{{ids.begin(), ids.end()}, text.sequences().front()};
    return;
  }
  for (const KeyValueCache::Sequence sequence : text.sequences()) cache.end(sequence);
}

std::unique_ptr<Generator::Impl::Memory> Generator::Impl::take() {
  const std::lock_guard lock(mutex);
  if (idle) return std::move(idle);
  return std::make_unique<Memory>(
      Memory{KeyValueCache(model.architecture(), model.compute_dtype(), model.device()), age, {}});
}

void Generator::Impl::give_back(std::unique_ptr<Memory> memory) {
  const std::lock_guard lock(mutex);
  if (memory->age != age) memory->forget();
  memory->age = age;
  idle = std::move(memory);
}

void Generator::Impl::forget() {
  const std::lock_guard lock(mutex);
  ++age;
  if (!idle) return;
  idle->forget();
  idle->age = age;
}

void check_prompt_size(size_t bytes, const std::string& where) {
  if (bytes <= kMostPromptBytes) return;
  throw Error(ErrorCode::kData, where,
              fmt::format("a prompt of {:.1f} MiB; prompts have at most {} MiB",
                          static_cast<double>(bytes) / (1 << 20), kMostPromptBytes >> 20),
              "shorten it");
}

std::vector<int32_t> Generator::Impl::prompt_of(const GenerationRequest& request,
                                                const std::string& where) const {
  std::vector<int32_t> ids = request.prompt_ids;
  if (ids.empty() && tokenizer != nullptr) {
    check_prompt_size(request.prompt.size(), where);
    ids = tokenizer->encode({request.prompt, {}}).ids;
    const auto begin = tokenizer->bos_id();
    if (ids.empty() && begin) ids = {*begin};
  }
  if (ids.empty()) throw Error(ErrorCode::kData, where, "has no tokens", "a model goes on with a text");
  const int64_t vocabulary = model.architecture().vocab_size(), longest = model.architecture().longest;
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    throw Error(ErrorCode::kData, where, fmt::format("token {} is not below {}", id, vocabulary),
                "does the tokenizer belong to this model?");
  }
  if (static_cast<int64_t>(ids.size()) > longest) {
    throw Error(ErrorCode::kData, where,
                fmt::format("has {} tokens, the model takes {}", ids.size(), longest), "shorten it");
  }
  return ids;
}

void Generator::Impl::check_options(GenerationOptions options, const std::string& where) {
  ErrorList errors;
  check_ranges(options, where + ": ", errors);
  check_generation(options, where + ": ", errors);
  errors.throw_if_any(where);
}

TextInProgress Generator::Impl::prepare(size_t index, GenerationRequest request,
                                        const std::string& where) const {
  if (request.options.eos_token_id.empty()) request.options.eos_token_id = end_tokens;
  check_options(request.options, where);
  std::vector<int32_t> prompt = prompt_of(request, where);
  // The last token that is made is never read.
  const int64_t room = model.architecture().longest - static_cast<int64_t>(prompt.size()) + 1;
  return TextInProgress(index, std::move(request), std::move(prompt), tokenizer, room);
}

void Generator::Impl::run(
    DecodePass& pass, KeyValueCache& cache,
    const std::function<void(const TextInProgress&, std::span<const float>)>& on_prompt) const {
  PackedInput input;
  input.input_ids = as_tensor({pass.ids.begin(), pass.ids.end()});
  input.cu_seqlens = pass.cu_seqlens;
  input.output_rows = as_tensor(pass.output_rows);
  const at::Tensor logits = model.decode(input, cache, pass.sequences).to(at::kCPU, at::kFloat).contiguous();
  const auto vocabulary = static_cast<size_t>(logits.size(1));
  const std::span<const float> scores(logits.data_ptr<float>(), static_cast<size_t>(logits.numel()));
  for (const DecodePass::Part& part : pass.parts) {
    part.text->has_read(part.tokens);
    if (part.scores < 0) continue;
    const size_t rows = part.text->sequences().size();
    const auto its_scores = scores.subspan(static_cast<size_t>(part.scores) * vocabulary, rows * vocabulary);
    if (part.text->has_just_read_prompt()) on_prompt(*part.text, its_scores);
    part.text->advance(its_scores, vocabulary, cache);
  }
}

std::vector<Generation> Generator::Impl::write(
    std::deque<TextInProgress> waiting, Memory& memory,
    const std::function<void(size_t, const Generation&)>& on_done) const {
  const bool is_alone = waiting.size() == 1;
  std::vector<Generation> results(waiting.size());
  std::vector<TextInProgress> live;
  const auto most = static_cast<size_t>(options.max_batch);
  size_t width = 0;
  SharedPrompt shared;
  // A text whose prompt is being read for another one waits for that.
  const auto may_begin = [&](const TextInProgress& text) {
    return std::none_of(live.begin(), live.end(), [&](const TextInProgress& other) {
      return !other.is_done() && other.is_reading_prompt() && text.begins_as(other);
    });
  };
  const auto keep_prompt = [&](const TextInProgress& text, std::span<const float> scores) {
    if (!waiting.empty() && waiting.front().begins_as(text)) shared.keep(text, scores, memory.cache);
  };
  while (!waiting.empty() || !live.empty()) {
    while (!waiting.empty() && (live.empty() || width + waiting.front().width() <= most) &&
           may_begin(waiting.front())) {
      width += waiting.front().width();
      live.push_back(std::move(waiting.front()));
      waiting.pop_front();
      if (shared.serves(live.back())) {
        shared.begin(live.back(), memory.cache);
      } else {
        memory.begin(live.back(), is_alone);
      }
      if (waiting.empty() || !shared.serves(waiting.front())) shared.forget(memory.cache);
    }
    DecodePass pass;
    auto budget = static_cast<size_t>(options.prefill_tokens);
    for (TextInProgress& text : live) {
      text.ask_whether_cancelled();
      if (text.is_done()) continue;
      const bool is_prompt = text.unread(0).size() > 1;
      if (is_prompt && budget == 0) continue;
      pass.add(text, is_prompt ? budget : 1);
      if (is_prompt) budget -= pass.parts.back().tokens;
    }
    if (!pass.parts.empty()) run(pass, memory.cache, keep_prompt);
    std::vector<TextInProgress> left;
    for (TextInProgress& text : live) {
      if (!text.is_done()) {
        left.push_back(std::move(text));
        continue;
      }
      memory.end(text, options.keeps_last && is_alone && text.width() == 1);
      width -= text.width();
      Generation& result = results[text.index()] = text.take_result();
      if (on_done) on_done(text.index(), result);
    }
    live = std::move(left);
  }
  return results;
}

Generator::Generator(Model& model, std::shared_ptr<const Tokenizer> tokenizer,
                     std::vector<int64_t> end_tokens, const GeneratorOptions& options)
    : impl_(std::make_unique<Impl>(model, std::move(tokenizer), std::move(end_tokens), options)) {
  if (model.task() != ModelTask::kCausalLm) {
    throw Error(ErrorCode::kUsage, model.architecture().model_type, "does not write texts here",
                "load it for causal language modelling");
  }
  if (options.max_batch < 1 || options.prefill_tokens < 1)
    throw Error(ErrorCode::kUsage, "generator", "expected max_batch and prefill_tokens of at least 1");
}

Generator::~Generator() = default;

Generation Generator::generate(GenerationRequest request) {
  std::vector<GenerationRequest> requests;
  requests.push_back(std::move(request));
  return std::move(generate(std::move(requests)).front());
}

std::vector<int32_t> Generator::prompt_of(const GenerationRequest& request, const std::string& where) const {
  impl_->check_options(request.options, where);
  return impl_->prompt_of(request, where);
}

std::vector<Generation> Generator::generate(
    std::vector<GenerationRequest> requests,
    const std::function<void(size_t index, const Generation& generation)>& on_done) {
  std::deque<TextInProgress> waiting;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::string where = requests.size() == 1 ? "the prompt" : fmt::format("prompt {}", i + 1);
    waiting.push_back(impl_->prepare(i, std::move(requests[i]), where));
  }
  // Where something is thrown, texts in progress are lost, and so is what was remembered.
  auto memory = impl_->take();
  std::vector<Generation> results = impl_->write(std::move(waiting), *memory, on_done);
  impl_->give_back(std::move(memory));
  return results;
}

void Generator::forget() {
  impl_->forget();
}

int64_t Generator::cache_bytes() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->idle ? impl_->idle->cache.bytes() : 0;
}

const std::vector<int64_t>& Generator::end_tokens() const {
  return impl_->end_tokens;
}

const Tokenizer* Generator::tokenizer() const {
  return impl_->tokenizer.get();
}

}  // namespace msplora
