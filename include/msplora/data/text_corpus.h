#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "msplora/data/encode.h"
#include "msplora/data/examples.h"

namespace msplora {

class Tokenizer;

/// The special tokens around text, and which tokens of a vocabulary are special.
struct TextFrame {
  std::vector<uint8_t> special;  // [vocab]; 1: stands for no text
  std::vector<int32_t> prefix;   // in front ([CLS])
  std::vector<int32_t> suffix;   // and behind ([SEP])
  /// Around a line: where a long one is split, only its first piece has the prefix and its last the suffix.
  /// Else around each piece.
  bool around_lines = false;

  int32_t vocab_size() const { return static_cast<int32_t>(special.size()); }
  /// Tokens around a piece.
  size_t added_tokens() const { return around_lines ? 0 : prefix.size() + suffix.size(); }

  /// What the tokenizer puts around a text.
  static TextFrame of(const Tokenizer& tokenizer);
  /// What a model that continues text learns from: what the tokenizer puts around a text, and the end token
  /// behind it, around whole lines. Throws Error{kConfig} when the tokenizer has no end token.
  static TextFrame of_documents(const Tokenizer& tokenizer);
};

struct TextCorpusSummary {
  int64_t lines = 0;  // that hold text
  int64_t sequences = 0;
  int64_t tokens = 0;          // special tokens included
  int64_t split_lines = 0;     // longer than a sequence, cut into pieces of about equal length
  int64_t unusable_lines = 0;  // without any token that could be masked
  UnknownTokens unknown;

  std::string text() const;
};

struct TextCorpusOptions {
  int64_t max_length = 128;  // of a sequence in tokens, special tokens included
  int threads = 0;           // 0: all
  std::optional<std::filesystem::path>
      cache_dir;  // keeps the encoded text, keyed by the text and the tokenizer
};

/// Encoded text that language models are trained on, one sequence a line (packed batches make short ones
/// free; long lines are split). Ids are stored in two bytes each where the vocabulary allows.
class TextCorpus {
 public:
  /// Reads and encodes text files line by line; memory is that of the ids, not of the text. A damaged cache
  /// is made anew and one that cannot be written does not stop the run; notes() tell. Throws Error{kIo} and
  /// Error{kData} for files that cannot be read, are not UTF-8 or hold no usable text.
  static TextCorpus build(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                          TextFrame frame, const TextCorpusOptions& options);

  explicit TextCorpus(TextFrame frame);
  /// Appends the tokens of one line (without the special tokens around it), split where longer than
  /// `max_length` allows. Throws Error{kUsage} for an id outside the vocabulary or a length that leaves no
  /// room.
  void add_line(std::span<const int32_t> ids, int64_t max_length);

  size_t size() const noexcept { return offsets_.size() - 1; }
  /// Lengths in tokens with special tokens, for BatchPlan.
  std::vector<uint32_t> lengths() const;
  /// Length of sequence `index` in tokens, and its tokens, special tokens included.
  uint32_t length(size_t index) const;
  std::vector<int32_t> sequence(size_t index) const;

  const TextFrame& frame() const noexcept { return frame_; }
  const TextCorpusSummary& summary() const noexcept { return summary_; }
  const std::vector<std::string>& notes() const noexcept { return notes_; }

  /// Writes and reads the encoded form (atomic, checksummed; `key` must agree). load() returns false when
  /// there is no such file, or (with a note) when it does not fit or is damaged.
  void save(const std::filesystem::path& path, uint64_t key) const;
  bool load(const std::filesystem::path& path, uint64_t key);

 private:
  void count_unknown(const Tokenizer& tokenizer);
  void append_piece(std::span<const int32_t> ids);
  void encode_files(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                    const TextCorpusOptions& options);

  TextFrame frame_;
  bool narrow_ = false;  // ids are in ids16_, else in ids32_
  std::vector<uint16_t> ids16_;
  std::vector<int32_t> ids32_;
  std::vector<uint64_t> offsets_ = {0};
  TextCorpusSummary summary_;
  std::vector<std::string> notes_;
};

/// The sequences of a corpus as examples, each with its special tokens.
Examples all_of(const TextCorpus& corpus);

}  // namespace msplora
