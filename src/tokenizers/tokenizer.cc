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
#include <unordered_set>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "tokenizers/added_tokens.h"
#include "tokenizers/decoders.h"
#include "tokenizers/model.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/post_processors.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/truncation.h"
#include "tokenizers/unicode.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::JsonView;
using detail::Lengths;
using nlohmann::json;

namespace detail {

// Working memory of one thread.
struct Scratch {
  detail::WordCache cache;
  detail::ModelScratch model;
  detail::PieceBuffer pieces;
  std::string valid;
  std::string normalized;
  std::string spare;
  std::vector<detail::AddedTokenMatcher::Part> outer_parts, inner_parts;
  std::vector<int32_t> first, second;
};

struct Roles {
  std::optional<int32_t> pad, mask, unk, cls, sep, bos, eos;
};

}  // namespace detail

using detail::Roles;
using detail::Scratch;

struct Tokenizer::Impl {
  std::string file;
  std::unique_ptr<const detail::Normalizer> normalizer;
  std::unique_ptr<const detail::PreTokenizer> pre_tokenizer;
  std::unique_ptr<const detail::Model> model;
  std::unique_ptr<const detail::Decoder> decoder;
  detail::PostProcessor post_processor;
  std::optional<detail::Truncation> truncation;
  std::optional<detail::Padding> padding;
  std::vector<detail::AddedToken> added_tokens;
  std::optional<detail::AddedTokenMatcher> raw_matcher, normalized_matcher;
  detail::Vocabulary vocabulary;  // the model's and the added tokens
  std::unordered_set<int32_t> special;
  Roles roles;
  std::string tokenizer_text, config_text;  // what save() writes

  explicit Impl(detail::TokenizerFiles files);

  void tokenize(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const;
  Encoding encode(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const;
  void pad(Encoding& encoding, size_t length) const;
  size_t padded_length(size_t longest) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const;

  // Scratch memory is kept between calls, so that encoding one text at a time finds its words cached.
  std::unique_ptr<Scratch> take_scratch() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;

 private:
  void read_vocabulary(const JsonView& document);
  void find_roles(const detail::TokenizerFiles& files);
  void tokenize_normalized(std::string_view text, bool at_start, Scratch& scratch,
                           std::vector<int32_t>& ids) const;
  Lengths fit(const Scratch& scratch, bool is_pair, const EncodeOptions& options, bool& from_left) const;

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

Tokenizer::Impl::Impl(detail::TokenizerFiles files) : file(files.source.string()) {
  const JsonView document(files.tokenizer, file);
  if (const auto part = document.find("normalizer")) normalizer = detail::make_normalizer(*part);
  if (const auto part = document.find("pre_tokenizer")) pre_tokenizer = detail::make_pre_tokenizer(*part);
  model = detail::make_model(document.at("model"));
  if (const auto part = document.find("post_processor")) post_processor = detail::make_post_processor(*part);
  if (const auto part = document.find("decoder")) decoder = detail::make_decoder(*part);
  truncation = detail::read_truncation(document);
  padding = detail::read_padding(document);
  read_vocabulary(document);
  find_roles(files);
  tokenizer_text =
      files.tokenizer_text.empty() ? files.tokenizer.dump(1) + "\n" : std::move(files.tokenizer_text);
  config_text = std::move(files.config_text);
  if (!config_text.empty()) return;
  // Enough for Hugging Face to know the roles of the special tokens.
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  const std::pair<const char*, std::optional<int32_t>> named[] = {
      {"pad_token", roles.pad}, {"mask_token", roles.mask}, {"unk_token", roles.unk},
      {"cls_token", roles.cls}, {"sep_token", roles.sep},   {"bos_token", roles.bos},
      {"eos_token", roles.eos}};
  for (const auto& [key, id] : named) {
    if (id) config[key] = vocabulary.token(*id);
  }
  config_text = config.dump(1) + "\n";
}

void Tokenizer::Impl::read_vocabulary(const JsonView& document) {
  vocabulary = model->vocabulary();
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
  normalized_matcher.emplace(added_tokens, true, normalizer.get());
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
  const auto model_unk = model->unk_token();
  roles.unk = either(named("unk_token"), model_unk ? vocabulary.find(*model_unk) : std::nullopt);
  roles.unk = either(roles.unk, usual({"[UNK]", "<unk>"}));
}

std::unique_ptr<Scratch> Tokenizer::Impl::take_scratch() const {
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

void Tokenizer::Impl::tokenize_normalized(std::string_view text, bool at_start, Scratch& scratch,
                                          std::vector<int32_t>& ids) const {
  auto& pieces = scratch.pieces;
  pieces.text.assign(text);
  pieces.at_start = at_start;
  pieces.pieces.assign(1, {0, text.size()});
  if (pre_tokenizer) pre_tokenizer->apply(pieces);
  for (const auto& piece : pieces.pieces) {
    if (piece.begin < piece.end) scratch.cache.tokenize(*model, pieces.view(piece), scratch.model, ids);
  }
}

void Tokenizer::Impl::tokenize(std::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const {
  ids.clear();
  const std::string_view valid = detail::valid_utf8(text, scratch.valid);
  scratch.outer_parts.clear();
  raw_matcher->split(valid, scratch.outer_parts);
  for (const auto& outer : scratch.outer_parts) {
    if (outer.id != detail::AddedTokenMatcher::kText) {
      ids.push_back(outer.id);
      continue;
    }
    scratch.normalized.assign(valid.substr(outer.begin, outer.end - outer.begin));
    if (normalizer) normalizer->apply(scratch.normalized, scratch.spare);
    scratch.inner_parts.clear();
    normalized_matcher->split(scratch.normalized, scratch.inner_parts);
    for (const auto& inner : scratch.inner_parts) {
      if (inner.id != detail::AddedTokenMatcher::kText) {
        ids.push_back(inner.id);
        continue;
      }
      const auto part = std::string_view(scratch.normalized).substr(inner.begin, inner.end - inner.begin);
      tokenize_normalized(part, outer.begin == 0 && inner.begin == 0, scratch, ids);
    }
  }
}

Lengths Tokenizer::Impl::fit(const Scratch& scratch, bool is_pair, const EncodeOptions& options,
                             bool& from_left) const {
  const Lengths lengths{scratch.first.size(), scratch.second.size()};
  const auto* stored = options.use_file_settings && truncation ? &*truncation : nullptr;
  if (options.max_length == 0 && !stored) return lengths;
  const size_t limit = options.max_length > 0 ? options.max_length : stored->max_length;
  const size_t added = options.add_special_tokens ? post_processor.added(is_pair) : 0;
  if (limit < added) {
    throw Error(ErrorCode::kUsage, file,
                "max_length " + std::to_string(limit) + " is smaller than the " + std::to_string(added) +
                    " special tokens around " + (is_pair ? "a pair" : "a text"),
                "use a max_length above " + std::to_string(added));
  }
  from_left = stored && stored->from_left;
  const Lengths kept = detail::truncated_lengths(
      lengths, is_pair, limit - added, stored ? stored->strategy : detail::TruncationStrategy::kLongestFirst);
  if (stored && options.max_length == 0) {
    const size_t around_one = options.add_special_tokens ? post_processor.added(false) : 0;
    detail::check_stride(stored->stride, lengths, kept, limit - std::min(limit, around_one), file);
  }
  return kept;
}

Encoding Tokenizer::Impl::encode(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const {
  const bool is_pair = text.pair.has_value();
  tokenize(text.text, scratch, scratch.first);
  scratch.second.clear();
  if (is_pair) tokenize(*text.pair, scratch, scratch.second);
  bool from_left = false;
  const Lengths kept = fit(scratch, is_pair, options, from_left);

  const auto& items = is_pair ? post_processor.pair : post_processor.single;
  Encoding result;
  result.dropped_tokens = scratch.first.size() + scratch.second.size() - kept.first - kept.second;
  const size_t expected = kept.first + kept.second + post_processor.added(is_pair);
  result.ids.reserve(expected);
  result.type_ids.reserve(expected);
  const auto append = [&](const std::vector<int32_t>& ids, size_t count, int32_t type_id) {
    const auto begin = from_left ? ids.end() - static_cast<std::ptrdiff_t>(count) : ids.begin();
    result.ids.insert(result.ids.end(), begin, begin + static_cast<std::ptrdiff_t>(count));
    result.type_ids.resize(result.ids.size(), type_id);
  };
  for (const auto& item : items) {
    if (item.kind == detail::PostProcessor::Kind::kFirst) {
      append(scratch.first, kept.first, item.type_id);
    } else if (item.kind == detail::PostProcessor::Kind::kSecond) {
      append(scratch.second, kept.second, item.type_id);
    } else if (options.add_special_tokens) {
      append(item.ids, item.ids.size(), item.type_id);
    }
  }
  return result;
}

size_t Tokenizer::Impl::padded_length(size_t longest) const {
  const size_t length = padding->fixed.value_or(longest);
  const size_t multiple = padding->multiple_of.value_or(1);
  return (length + multiple - 1) / multiple * multiple;
}

void Tokenizer::Impl::pad(Encoding& encoding, size_t length) const {
  if (encoding.ids.size() >= length) return;
  encoding.padding_tokens = length - encoding.ids.size();
  const auto fill = [&](std::vector<int32_t>& values, int32_t value) {
    values.insert(padding->on_left ? values.begin() : values.end(), encoding.padding_tokens, value);
  };
  fill(encoding.ids, padding->id);
  fill(encoding.type_ids, padding->type_id);
}

std::string Tokenizer::Impl::decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    if (vocabulary.has(id) && !(skip_special_tokens && special.contains(id)))
      tokens.push_back(vocabulary.token(id));
  }
  std::string text;
  if (decoder) decoder->apply(tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!decoder && i > 0) text += ' ';
    text += tokens[i];
  }
  return text;
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
    std::vector<std::jthread> pool;
    for (size_t i = 1; i < helpers; ++i) pool.emplace_back(work);
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
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw Error(ErrorCode::kIo, directory.string(), "cannot make the directory: " + error.message());
  write_file_atomically(directory / "tokenizer.json", impl_->tokenizer_text);
  write_file_atomically(directory / "tokenizer_config.json", impl_->config_text);
}

}  // namespace msplora
