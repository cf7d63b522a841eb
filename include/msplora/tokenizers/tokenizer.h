#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {

/// A stretch [begin, end) of a text.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

/// What the ends of a TextSpan count. A damaged part of a text is one character, the U+FFFD that it is read
/// as.
enum class OffsetUnit { kNone, kBytes, kCharacters };

/// The tokens of one text or pair.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // segment of each token (0 or 1), as long as ids
  /// Where each token stands in its text, of a pair in its own one; special tokens and padding have [0, 0).
  /// Empty unless EncodeOptions::offsets asks. A token that is a part of a character has all of it.
  std::vector<TextSpan> offsets;
  size_t dropped_tokens = 0;  // removed by truncation
  size_t padding_tokens = 0;  // added by the file's own padding (use_file_settings only)
};

/// One text, or two that are encoded together. The views must outlive the call they are passed to.
struct TextPair {
  std::string_view text;
  std::optional<std::string_view> pair;
};

/// Which text gives way when a pair is too long: the longer one, token by token, or only the one named.
enum class TruncationStrategy { kLongestFirst, kOnlyFirst, kOnlySecond };

struct EncodeOptions {
  bool add_special_tokens = true;
  /// Longest result including special tokens; 0 means no truncation.
  size_t max_length = 0;
  /// How max_length is reached. kOnlyFirst and kOnlySecond fail with Error{kData} where that text is too
  /// short.
  TruncationStrategy truncation = TruncationStrategy::kLongestFirst;
  /// Tokens go from the beginning of a text in place of its end.
  bool truncate_left = false;
  /// encode_windows(): by how many tokens windows overlap; less than what max_length leaves of a text.
  size_t stride = 0;
  /// Whether Encoding::offsets is filled, and with what. Makes encoding 3 to 6 times slower.
  OffsetUnit offsets = OffsetUnit::kNone;
  /// Applies the truncation and padding stored in tokenizer.json. Off by default: batches here are packed and
  /// need no padding. `max_length`, when given, replaces the stored length and stride.
  bool use_file_settings = false;
};

/// A tokenizer as Hugging Face's directories hold it: normaliser, pre-tokenizer, model (BPE, Unigram,
/// WordPiece, WordLevel), post-processor, decoder and added tokens. Immutable and safe to use from many
/// threads; hold it through shared_ptr<const Tokenizer>.
///
/// Text that is not well-formed UTF-8 is read with U+FFFD in place of each damaged part. BPE dropout, a
/// training-time setting, is not applied: encoding is always deterministic.
class Tokenizer {
 public:
  /// Reads a directory or one file of it. Of a directory the first of these that is there: tokenizer.json;
  /// vocab.txt as BERT writes it; vocab.json + merges.txt as GPT-2 or RoBERTa write it, told apart by
  /// config.json and tokenizer_config.json; tokenizer.model or spiece.model (SentencePiece, or Llama 3's
  /// ranks); tekken.json; *.tiktoken. A GGUF file has its own inside. docs/formats.md says what each may
  /// hold. Throws Error{kIo} when the files are missing and Error{kFormat}, naming the file and the place in
  /// it, when they are damaged or hold something that is not known here.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& directory_or_file);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Throws Error{kUsage} when max_length leaves no room for the special tokens.
  Encoding encode(const TextPair& text, const EncodeOptions& options = {}) const;

  /// What encode() gives, and behind it, in the order of Hugging Face's overflowing encodings, windows of
  /// what max_length cut off, each of at most max_length tokens with the special ones. Windows of one text
  /// overlap by `stride` tokens; of a pair, every window of one text meets every window of the other. Throws
  /// Error{kConfig} when the stride is too large.
  std::vector<Encoding> encode_windows(const TextPair& text, const EncodeOptions& options) const;

  /// encode() of each element, in order, on `threads` threads (0: all of the machine's). With
  /// use_file_settings and padding to the longest, the whole batch is padded alike. Throws
  /// Error{kInterrupted} between two texts when a stop was asked for (core/interrupt.h).
  std::vector<Encoding> encode_batch(const std::vector<TextPair>& texts, const EncodeOptions& options = {},
                                     int threads = 0) const;

  /// Text of the tokens; ids that the vocabulary does not have are left out.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens = true) const;

  /// One more than the largest id, added tokens included: the rows an embedding table needs.
  size_t vocab_size() const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  /// "" for an id below vocab_size() that no token has; throws Error{kUsage} for one outside.
  const std::string& id_to_token(int32_t id) const;

  /// Special tokens by role, from tokenizer_config.json, special_tokens_map.json, tokenizer.json's own
  /// padding and unknown token, or the usual names ([CLS], <s>, ...). cls and sep fall back to bos and eos.
  std::optional<int32_t> pad_id() const;
  std::optional<int32_t> mask_id() const;
  std::optional<int32_t> unk_id() const;
  std::optional<int32_t> cls_id() const;
  std::optional<int32_t> sep_id() const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool is_special(int32_t id) const;

  /// How many special tokens encode() adds around one text or around a pair.
  size_t special_tokens_added(bool pair) const;

  /// Writes tokenizer.json and tokenizer_config.json into `directory` (made when missing). A tokenizer read
  /// from vocabulary files is written in the new form; one read from tokenizer.json is written byte for byte.
  void save(const std::filesystem::path& directory) const;

 private:
  friend class DecodeStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace msplora
