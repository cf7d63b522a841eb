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
#include "msplora/data/reader.h"
#include "msplora/data/text_corpus.h"
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
uint64_t cache_key(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const TextFrame& frame,
                   const TextCorpusOptions& options) {
  ContentHash hash;
  hash.add_value(static_cast<uint64_t>(options.max_length));
  hash.add_value(static_cast<uint64_t>(frame.around_lines));
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id)
    hash.add(tokenizer.id_to_token(static_cast<int32_t>(id)));
  hash.add(frame.special.data(), frame.special.size());
  for (const auto* ids : {&frame.prefix, &frame.suffix}) hash.add(ids->data(), ids->size() * sizeof(int32_t));
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

TextFrame TextFrame::of(const Tokenizer& tokenizer) {
  TextFrame frame;
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  for (int32_t id = 0; id < size; ++id)
    frame.special.push_back(tokenizer.id_to_token(id).empty() || tokenizer.is_special(id) ? 1 : 0);
  // The template is read off an encoded text: what stands around its own tokens.
  const TextPair probe{"a", std::nullopt};
  const std::vector<int32_t> bare = tokenizer.encode(probe, {false}).ids, full = tokenizer.encode(probe).ids;
  const auto inside = std::search(full.begin(), full.end(), bare.begin(), bare.end());
  frame.prefix.assign(full.begin(), inside);
  if (inside != full.end())
    frame.suffix.assign(inside + static_cast<std::ptrdiff_t>(bare.size()), full.end());
  return frame;
}

TextFrame TextFrame::of_documents(const Tokenizer& tokenizer) {
  TextFrame frame = of(tokenizer);
  const std::optional<int32_t> end = tokenizer.eos_id();
  if (!end) {
    throw Error(ErrorCode::kConfig, "tokenizer",
                "training a model that continues text needs an end token; this one has none",
                "name it as eos_token in tokenizer_config.json");
  }
  if (frame.suffix.empty() || frame.suffix.back() != *end) frame.suffix.push_back(*end);
  frame.around_lines = true;
  return frame;
}

void TextCorpus::count_unknown(const Tokenizer& tokenizer) {
  const std::optional<int32_t> id = countable_unknown(tokenizer);
  if (!id) return;
  summary_.unknown.token = tokenizer.id_to_token(*id);
  summary_.unknown.of = static_cast<int64_t>(offsets_.back());
  summary_.unknown.count =
      narrow_ ? std::count(ids16_.begin(), ids16_.end(), *id) : std::count(ids32_.begin(), ids32_.end(), *id);
}

void TextCorpus::encode_files(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                              const TextCorpusOptions& options) {
  LineChunks chunks(files);
  std::vector<std::string> lines;
  while (chunks.next(lines, SIZE_MAX)) {
    for (const Encoding& encoding : encode_lines(lines, tokenizer, options.threads)) {
      add_line(encoding.ids, options.max_length);
    }
  }
}

TextCorpus TextCorpus::build(const std::vector<fs::path>& files, const Tokenizer& tokenizer, TextFrame frame,
                             const TextCorpusOptions& options) {
  if (files.empty())
    throw Error(ErrorCode::kConfig, "data.train", "expected at least one text file, found none");
  TextCorpus corpus(std::move(frame));
  uint64_t key = 0;
  fs::path cache;
  if (options.cache_dir) {
    for (const fs::path& file : files) require_file(file);
    key = cache_key(files, tokenizer, corpus.frame_, options);
    cache = *options.cache_dir / fmt::format("text-{:016x}.bin", key);
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
