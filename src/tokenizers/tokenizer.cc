#include "msplora/tokenizers/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/paths.h"
#include "msplora/tokenizers/decode_stream.h"
#include "tokenizers/tokenizer_impl.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::JsonView;
using nlohmann::json;

Tokenizer::Impl::Impl(detail::TokenizerFiles files)
    : file(files.source.string()), parts(std::move(files.parts)) {
  const JsonView document(files.tokenizer, file);
  if (!parts.model) parts = detail::make_parts(document);
  if (!parts.decoder) parts.decoder = detail::make_spaced_decoder();
  if (const auto part = document.find("post_processor")) post_processor = detail::make_post_processor(*part);
  truncation = detail::read_truncation(document);
  padding = detail::read_padding(document);
  read_vocabulary(document);
  find_roles(files);
  make_tokenizer = std::move(files.make_tokenizer);
  if (make_tokenizer) {
    // It is made when it is saved.
  } else if (!files.other_file.empty())
    saved_files.emplace_back(files.source.filename().string(), std::move(files.other_file));
  else if (files.tokenizer_text.empty())
    saved_files.emplace_back("tokenizer.json", files.tokenizer.dump(1) + "\n");
  else
    saved_files.emplace_back("tokenizer.json", std::move(files.tokenizer_text));
  std::string config_text = std::move(files.config_text);
  if (config_text.empty()) {
    // Enough for Hugging Face to know the roles of the special tokens.
    json config = std::move(files.new_config);
    const std::pair<const char*, std::optional<int32_t>> named[] = {
        {"pad_token", roles.pad}, {"mask_token", roles.mask}, {"unk_token", roles.unk},
        {"cls_token", roles.cls}, {"sep_token", roles.sep},   {"bos_token", roles.bos},
        {"eos_token", roles.eos}};
    for (const auto& [key, id] : named) {
      if (id) config[key] = vocabulary.token(*id);
    }
    config_text = config.dump(1) + "\n";
  }
  saved_files.emplace_back("tokenizer_config.json", std::move(config_text));
}

void Tokenizer::Impl::read_vocabulary(const JsonView& document) {
  vocabulary = parts.model->vocabulary();
  special.insert(parts.special.begin(), parts.special.end());
  if (const auto added = document.find("added_tokens")) {
    added_tokens = detail::read_added_tokens(*added);
    for (size_t i = 0; i < added_tokens.size(); ++i) {
      const auto& token = added_tokens[i];
      if (token.content.empty()) added->elements()[i].fail("an added token is empty");
      vocabulary.set(token.content, token.id);
      if (token.special) special.insert(token.id);
    }
  }
  raw_matcher.emplace(added_tokens, false, nullptr);
  normalized_matcher.emplace(added_tokens, true, parts.normalizer.get());
  const auto check = [&](int32_t id, const JsonView& where) {
    if (!vocabulary.has(id)) where.fail("the id " + std::to_string(id) + " has no token in the vocabulary");
  };
  for (const auto* items : {&post_processor.single, &post_processor.pair}) {
    for (const auto& item : *items)
      for (const int32_t id : item.ids) check(id, document.at("post_processor"));
  }
}

void Tokenizer::Impl::find_roles(const detail::TokenizerFiles& files) {
  const auto named = [&](const char* key) -> std::optional<int32_t> {
    for (const json* source : {&files.config, &files.special_tokens_map}) {
      const auto found = source->find(key);
      if (found == source->end()) continue;
      const json& value = found->is_object() && found->contains("content") ? (*found)["content"] : *found;
      if (!value.is_string()) continue;
      if (const auto id = vocabulary.find(value.get<std::string>())) return id;
    }
    return std::nullopt;
  };
  const auto usual = [&](std::initializer_list<const char*> names) -> std::optional<int32_t> {
    for (const char* name : names) {
      if (const auto id = vocabulary.find(name)) return id;
    }
    return std::nullopt;
  };
  const auto either = [](std::optional<int32_t> a, std::optional<int32_t> b) { return a ? a : b; };
  roles.bos = either(named("bos_token"), usual({"<s>", "<|endoftext|>"}));
  roles.eos = either(named("eos_token"), usual({"</s>", "<|endoftext|>"}));
  roles.cls = either(either(named("cls_token"), usual({"[CLS]"})), roles.bos);
  roles.sep = either(either(named("sep_token"), usual({"[SEP]"})), roles.eos);
  roles.mask = either(named("mask_token"), usual({"[MASK]", "<mask>"}));
  roles.pad = either(named("pad_token"), padding ? vocabulary.find(padding->token) : std::nullopt);
  roles.pad = either(roles.pad, usual({"[PAD]", "<pad>"}));
  const auto model_unk = parts.model->unk_token();
  roles.unk = either(named("unk_token"), model_unk ? vocabulary.find(*model_unk) : std::nullopt);
  roles.unk = either(roles.unk, usual({"[UNK]", "<unk>"}));
}

std::unique_ptr<detail::TokenizerScratch> Tokenizer::Impl::take_scratch() const {
  {
    const std::lock_guard lock(scratch_mutex_);
    if (!free_scratch_.empty()) {
      auto scratch = std::move(free_scratch_.back());
      free_scratch_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}

void Tokenizer::Impl::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(scratch_mutex_);
  free_scratch_.push_back(std::move(scratch));
}

std::string Tokenizer::Impl::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  detail::CollectedText end;
  const auto stage = parts.decoder->open(end, detail::ByteRuns::kWhole);
  for (const int32_t id : ids) pass_on(id, skip_special_tokens, *stage);
  stage->finish();
  return std::move(end.result);
}

void Tokenizer::Impl::pass_on(int32_t id, bool skip_special_tokens, detail::TextSink& stage) const {
  if (!vocabulary.has(id)) return;
  const bool skipped = skip_special_tokens && special.contains(id);
  if (skipped && !parts.decoder->sees_special_tokens()) return;
  if (!skipped) stage.text(vocabulary.token(id));
  stage.end_token();
}

struct DecodeStream::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  DecodeStreamOptions options;
  detail::CollectedText end;
  std::unique_ptr<detail::TextSink> stage;
};

DecodeStream::DecodeStream(std::shared_ptr<const Tokenizer> tokenizer, const DecodeStreamOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->tokenizer = std::move(tokenizer);
  impl_->options = options;
  impl_->stage = impl_->tokenizer->impl_->parts.decoder->open(
      impl_->end, options.prompt_bytes ? detail::ByteRuns::kOneByOne : detail::ByteRuns::kWhole);
}

DecodeStream::~DecodeStream() = default;
DecodeStream::DecodeStream(DecodeStream&&) noexcept = default;
DecodeStream& DecodeStream::operator=(DecodeStream&&) noexcept = default;

std::string DecodeStream::add(int32_t id) {
  impl_->tokenizer->impl_->pass_on(id, impl_->options.skip_special_tokens, *impl_->stage);
  return std::exchange(impl_->end.result, {});
}

std::string DecodeStream::finish() {
  impl_->stage->finish();
  std::string rest = std::exchange(impl_->end.result, {});
  *this = DecodeStream(impl_->tokenizer, impl_->options);
  return rest;
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const fs::path& directory_or_file) {
  auto impl = std::make_unique<Impl>(detail::read_tokenizer_files(directory_or_file));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

Encoding Tokenizer::encode(const TextPair& text, const EncodeOptions& options) const {
  auto scratch = impl_->take_scratch();
  Encoding result = impl_->encode(text, options, *scratch);
  impl_->give_back(std::move(scratch));
  if (options.use_file_settings && impl_->padding)
    impl_->pad(result, impl_->padded_length(result.ids.size()));
  return result;
}

std::vector<Encoding> Tokenizer::encode_windows(const TextPair& text, const EncodeOptions& options) const {
  auto scratch = impl_->take_scratch();
  std::vector<Encoding> results = impl_->encode_windows(text, options, *scratch);
  impl_->give_back(std::move(scratch));
  if (options.use_file_settings && impl_->padding) {
    size_t longest = 0;
    for (const auto& result : results) longest = std::max(longest, result.ids.size());
    for (auto& result : results) impl_->pad(result, impl_->padded_length(longest));
  }
  return results;
}

std::vector<Encoding> Tokenizer::encode_batch(const std::vector<TextPair>& texts,
                                              const EncodeOptions& options, int threads) const {
  std::vector<Encoding> results(texts.size());
  // Small enough that threads finish together, large enough that the counter costs nothing.
  constexpr size_t kChunk = 64;
  std::atomic<size_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  size_t failed_at = texts.size();
  const auto work = [&] {
    auto scratch = impl_->take_scratch();
    for (size_t begin = next.fetch_add(kChunk); begin < texts.size(); begin = next.fetch_add(kChunk)) {
      for (size_t i = begin; i < std::min(begin + kChunk, texts.size()); ++i) {
        try {
          if (interrupt_requested())
            throw Error(ErrorCode::kInterrupted, impl_->file, "stopped while tokenizing");
          results[i] = impl_->encode(texts[i], options, *scratch);
        } catch (...) {
          const std::lock_guard lock(failure_mutex);
          // The first failing text is reported, whatever thread met it.
          if (i < failed_at) {
            failed_at = i;
            failure = std::current_exception();
          }
          next = texts.size();
          break;
        }
      }
    }
    impl_->give_back(std::move(scratch));
  };
  const size_t wanted =
      threads > 0 ? static_cast<size_t>(threads) : std::max(1U, std::thread::hardware_concurrency());
  const size_t helpers = std::min(wanted, (texts.size() + kChunk - 1) / kChunk);
  {
    const StopScope* const caller = StopScope::current();
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < helpers; ++i) {
      pool.emplace_back([&work, caller] {
        const StopScope scope(caller);
        work();
      });
    }
    work();
  }
  if (failure) std::rethrow_exception(failure);
  if (options.use_file_settings && impl_->padding) {
    size_t longest = 0;
    for (const auto& result : results) longest = std::max(longest, result.ids.size());
    for (auto& result : results) impl_->pad(result, impl_->padded_length(longest));
  }
  return results;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  return impl_->decode(ids, skip_special_tokens);
}

size_t Tokenizer::vocab_size() const {
  return impl_->vocabulary.size();
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return impl_->vocabulary.find(token);
}

const std::string& Tokenizer::id_to_token(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= vocab_size()) {
    throw Error(
        ErrorCode::kUsage, impl_->file,
        "expected a token id below " + std::to_string(vocab_size()) + ", found " + std::to_string(id));
  }
  return impl_->vocabulary.token(id);
}

std::optional<int32_t> Tokenizer::pad_id() const {
  return impl_->roles.pad;
}
std::optional<int32_t> Tokenizer::mask_id() const {
  return impl_->roles.mask;
}
std::optional<int32_t> Tokenizer::unk_id() const {
  return impl_->roles.unk;
}
std::optional<int32_t> Tokenizer::cls_id() const {
  return impl_->roles.cls;
}
std::optional<int32_t> Tokenizer::sep_id() const {
  return impl_->roles.sep;
}
std::optional<int32_t> Tokenizer::bos_id() const {
  return impl_->roles.bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return impl_->roles.eos;
}
bool Tokenizer::is_special(int32_t id) const {
  return impl_->special.contains(id);
}

size_t Tokenizer::special_tokens_added(bool pair) const {
  return impl_->post_processor.added(pair);
}

void Tokenizer::save(const fs::path& directory) const {
  make_directories(directory);
  if (impl_->make_tokenizer)
    write_file_atomically(directory / "tokenizer.json", impl_->make_tokenizer().dump(1) + "\n");
  for (const auto& [name, content] : impl_->saved_files) write_file_atomically(directory / name, content);
}

}  // namespace msplora
