#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "hash.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/data/mlm.h"
#include "msplora/data/reader.h"
#include "msplora/tokenizers/tokenizer.h"
#include "text_util.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;
constexpr int64_t kProbedLines = 2000;

// Lines of all files in pieces of about kChunkBytes; blank lines are left out.
class LineChunks {
 public:
  explicit LineChunks(const std::vector<fs::path>& files) : files_(files) {}

  bool next(std::vector<std::string>& lines, size_t most_lines) {
    lines.clear();
    size_t bytes = 0;
    std::string line;
    while (bytes < kChunkBytes && lines.size() < most_lines) {
      if (!reader_) {
        if (file_ == files_.size()) break;
        reader_ = std::make_unique<LineReader>(files_[file_++]);
      }
      if (!reader_->next(line)) {
        reader_.reset();
        continue;
      }
      if (trim(line).empty()) continue;
      bytes += line.size();
      lines.push_back(line);
    }
    return !lines.empty();
  }

 private:
  const std::vector<fs::path>& files_;
  size_t file_ = 0;
  std::unique_ptr<LineReader> reader_;
};

std::vector<Encoding> encode_lines(const std::vector<std::string>& lines, const Tokenizer& tokenizer,
                                   int threads) {
  std::vector<TextPair> texts(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) texts[i].text = lines[i];
  EncodeOptions options;
  options.add_special_tokens = false;
  return tokenizer.encode_batch(texts, options, threads);
}

// The tokenizer is known by its vocabulary and by what it makes of the first lines: the settings that could
// differ beside the vocabulary (merges, normalisation) would show there.
uint64_t cache_key(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                   const MlmVocabulary& vocabulary, const MlmCorpusOptions& options) {
  ContentHash hash;
  hash.add_value(static_cast<uint64_t>(options.max_length));
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id)
    hash.add(tokenizer.id_to_token(static_cast<int32_t>(id)));
  hash.add(vocabulary.special.data(), vocabulary.special.size());
  for (const auto* ids : {&vocabulary.prefix, &vocabulary.suffix})
    hash.add(ids->data(), ids->size() * sizeof(int32_t));
  std::vector<std::string> lines;
  LineChunks(files).next(lines, kProbedLines);
  for (const Encoding& encoding : encode_lines(lines, tokenizer, options.threads)) {
    hash.add(encoding.ids.data(), encoding.ids.size() * sizeof(int32_t));
  }
  for (const fs::path& file : files) {
    const auto content = MappedFile::open(file);
    hash.add(content->data(), content->size());
  }
  return hash.value();
}

}  // namespace

MlmVocabulary MlmVocabulary::from_tokenizer(const Tokenizer& tokenizer) {
  MlmVocabulary vocabulary;
  const std::optional<int32_t> mask = tokenizer.mask_id();
  if (!mask) {
    throw Error(ErrorCode::kConfig, "tokenizer",
                "masked-language-model training needs a mask token; this one has none",
                "use the tokenizer of a BERT or RoBERTa model");
  }
  vocabulary.mask_id = *mask;
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  vocabulary.special.assign(static_cast<size_t>(size), 0);
  vocabulary.continuation.assign(static_cast<size_t>(size), 0);
  bool word_piece = false;
  for (int32_t id = 0; id < size; ++id) {
    const std::string& token = tokenizer.id_to_token(id);
    vocabulary.special[static_cast<size_t>(id)] = token.empty() || tokenizer.is_special(id) ? 1 : 0;
    word_piece = word_piece || (token.starts_with("##") && token.size() > 2);
  }
  for (int32_t id = 0; id < size; ++id) {
    const std::string& token = tokenizer.id_to_token(id);
    // WordPiece marks what continues a word; byte-level BPE ("Ġ") and SentencePiece ("▁") mark what starts
    // one.
    const bool starts = word_piece ? !(token.starts_with("##") && token.size() > 2)
                                   : token.starts_with("\u0120") || token.starts_with("\u010A") ||
                                         token.starts_with("\u2581");
    vocabulary.continuation[static_cast<size_t>(id)] = starts ? 0 : 1;
  }
  // The template is read off an encoded text: what stands around its own tokens.
  const TextPair probe{"a", std::nullopt};
  const std::vector<int32_t> bare = tokenizer.encode(probe, {false}).ids, full = tokenizer.encode(probe).ids;
  const auto inside = std::search(full.begin(), full.end(), bare.begin(), bare.end());
  vocabulary.prefix.assign(full.begin(), inside);
  if (inside != full.end()) {
    vocabulary.suffix.assign(inside + static_cast<std::ptrdiff_t>(bare.size()), full.end());
  }
  return vocabulary;
}

void MlmCorpus::count_unknown(const Tokenizer& tokenizer) {
  const std::optional<int32_t> id = countable_unknown(tokenizer);
  if (!id) return;
  summary_.unknown.token = tokenizer.id_to_token(*id);
  summary_.unknown.of = static_cast<int64_t>(offsets_.back());
  summary_.unknown.count =
      narrow_ ? std::count(ids16_.begin(), ids16_.end(), *id) : std::count(ids32_.begin(), ids32_.end(), *id);
}

void MlmCorpus::encode_files(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                             const MlmCorpusOptions& options) {
  LineChunks chunks(files);
  std::vector<std::string> lines;
  while (chunks.next(lines, SIZE_MAX)) {
    for (const Encoding& encoding : encode_lines(lines, tokenizer, options.threads)) {
      add_line(encoding.ids, options.max_length);
    }
  }
}

MlmCorpus MlmCorpus::build(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                           const MlmCorpusOptions& options) {
  if (files.empty())
    throw Error(ErrorCode::kConfig, "data.train", "expected at least one text file, found none");
  MlmCorpus corpus(MlmVocabulary::from_tokenizer(tokenizer));
  uint64_t key = 0;
  fs::path cache;
  if (options.cache_dir) {
    key = cache_key(files, tokenizer, corpus.vocabulary_, options);
    cache = *options.cache_dir / fmt::format("mlm-{:016x}.bin", key);
    if (corpus.load(cache, key)) {
      corpus.notes_.push_back(fmt::format("the encoded text comes from {}", cache.string()));
      corpus.count_unknown(tokenizer);
      return corpus;
    }
  }
  corpus.encode_files(files, tokenizer, options);
  if (corpus.size() == 0) {
    throw Error(ErrorCode::kData, files.front().string(),
                fmt::format("the {} text file(s) hold no usable line", files.size()));
  }
  corpus.count_unknown(tokenizer);
  if (options.cache_dir) {
    try {
      std::error_code ignored;
      fs::create_directories(*options.cache_dir, ignored);
      corpus.save(cache, key);
    } catch (const Error& error) {
      corpus.notes_.push_back(fmt::format("the encoded text was not kept: {}", error.what()));
    }
  }
  return corpus;
}

}  // namespace msplora
