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

/// What masking needs to know of a tokenizer.
struct MlmVocabulary {
  int32_t mask_id = 0;
  std::vector<uint8_t> special;       // [vocab]; 1: never masked and never drawn as a random replacement
  std::vector<uint8_t> continuation;  // [vocab]; 1: continues the word of the token before (WordPiece "##")
  std::vector<int32_t> prefix;        // special tokens before a sequence ([CLS])
  std::vector<int32_t> suffix;        // and behind it ([SEP])

  int32_t size() const { return static_cast<int32_t>(special.size()); }
  size_t added_tokens() const { return prefix.size() + suffix.size(); }

  /// Throws Error{kConfig} when the tokenizer has no mask token.
  static MlmVocabulary from_tokenizer(const Tokenizer& tokenizer);
};

struct MlmCorpusSummary {
  int64_t lines = 0;  // that hold text
  int64_t sequences = 0;
  int64_t tokens = 0;          // special tokens included
  int64_t split_lines = 0;     // longer than a sequence, cut into pieces of about equal length
  int64_t unusable_lines = 0;  // without any token that could be masked
  UnknownTokens unknown;

  std::string text() const;
};

struct MlmCorpusOptions {
  int64_t max_length = 128;  // of a sequence in tokens, special tokens included
  int threads = 0;           // 0: all
  std::optional<std::filesystem::path>
      cache_dir;  // keeps the encoded text, keyed by the text and the tokenizer
};

/// Encoded text for masked-language-model training, one sequence a line (packed batches make short ones free;
/// long lines are split). Ids are stored without special tokens, in two bytes each where the vocabulary
/// allows.
class MlmCorpus {
 public:
  /// Reads and encodes text files line by line; memory is that of the ids, not of the text. A damaged cache
  /// is made anew and one that cannot be written does not stop the run; notes() tell. Throws Error{kIo} and
  /// Error{kData} for files that cannot be read, are not UTF-8 or hold no usable text.
  static MlmCorpus build(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                         const MlmCorpusOptions& options);

  explicit MlmCorpus(MlmVocabulary vocabulary);
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

  const MlmVocabulary& vocabulary() const noexcept { return vocabulary_; }
  const MlmCorpusSummary& summary() const noexcept { return summary_; }
  const std::vector<std::string>& notes() const noexcept { return notes_; }

  /// Writes and reads the encoded form (atomic, checksummed; `key` must agree). load() returns false when
  /// there is no such file, or (with a note) when it does not fit or is damaged.
  void save(const std::filesystem::path& path, uint64_t key) const;
  bool load(const std::filesystem::path& path, uint64_t key);

 private:
  void count_unknown(const Tokenizer& tokenizer);
  void append_piece(std::span<const int32_t> ids);
  void encode_files(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                    const MlmCorpusOptions& options);

  MlmVocabulary vocabulary_;
  bool narrow_ = false;  // ids are in ids16_, else in ids32_
  std::vector<uint16_t> ids16_;
  std::vector<int32_t> ids32_;
  std::vector<uint64_t> offsets_ = {0};
  MlmCorpusSummary summary_;
  std::vector<std::string> notes_;
};

/// Masking as in BERT (Devlin et al., NAACL 2019): each token (or whole word) is chosen with `probability`;
/// of the chosen tokens 80% become the mask token, 10% a random token, 10% stay.
struct MaskOptions {
  double probability = 0.15;
  bool whole_word = false;
  uint64_t seed = 0;
  /// The first token ([CLS]) predicts a token of its text, drawn anew in each epoch. Plain masking never
  /// trains the output there, which classification heads read; with this it becomes a summary of the text.
  bool first_token = false;
};

/// Masks one sequence in place and writes the original ids to `labels` where tokens were chosen,
/// kIgnoredLabel elsewhere. The result depends on (seed, epoch, example) alone. Special tokens are never
/// chosen; at least one token is. Throws Error{kUsage} when there is none to choose.
void mask_tokens(std::span<int64_t> ids, std::span<int64_t> labels, const MlmVocabulary& vocabulary,
                 const MaskOptions& options, uint64_t epoch, uint64_t example);

/// The sequences of a corpus as examples, each with its special tokens.
Examples all_of(const MlmCorpus& corpus);

}  // namespace msplora
