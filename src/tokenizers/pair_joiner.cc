#include "tokenizers/pair_joiner.h"

#include <algorithm>
#include <utility>

#include "msplora/core/line_reader.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace fs = std::filesystem;
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

WordCounter::WordCounter(std::unique_ptr<const Normalizer> normalizer,
                         std::unique_ptr<const PreTokenizer> pre_tokenizer, size_t max_chars)
    : normalizer_(std::move(normalizer)), pre_tokenizer_(std::move(pre_tokenizer)), max_chars_(max_chars) {}

void WordCounter::add(std::string_view line) {
  buffer_.text.assign(valid_utf8(line, valid_));
  if (normalizer_) normalizer_->apply(buffer_.text, spare_);
  buffer_.pieces.assign(1, {0, buffer_.text.size()});
  pre_tokenizer_->apply(buffer_);
  for (const auto& piece : buffer_.pieces) count(buffer_.view(piece));
}

void WordCounter::count(std::string_view word) {
  const int32_t known = table_.find(word);
  if (known != StringTable::kNone) {
    ++words_[static_cast<size_t>(known)].count;
  } else if (count_code_points(word) <= max_chars_) {
    table_.set(word, static_cast<int32_t>(words_.size()));
    words_.push_back({std::string(word), 1});
  }
}

std::vector<WordCount> WordCounter::take() {
  std::vector<WordCount> words = std::move(words_);
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) { return a.word < b.word; });
  return words;
}

void for_each_line(const std::vector<fs::path>& files, const std::function<void(const std::string&)>& use) {
  std::string line;
  for (const auto& path : files) {
    LineReader lines(path);
    while (lines.next(line)) use(line);
  }
}

int32_t PieceList::id_of(const std::string& piece) {
  const int32_t known = table_.find(piece);
  if (known != StringTable::kNone) return known;
  const auto id = static_cast<int32_t>(pieces_.size());
  table_.set(piece, id);
  pieces_.push_back(piece);
  return id;
}

PairJoiner::PairJoiner(PieceList& pieces, std::string inner_prefix)
    : pieces_(pieces), inner_prefix_(std::move(inner_prefix)) {}

void PairJoiner::add_word(std::span<const int32_t> symbols, int64_t count) {
  const auto word = static_cast<uint32_t>(words_.size());
  words_.push_back({symbols_.size(), symbols.size(), count});
  symbols_.insert(symbols_.end(), symbols.begin(), symbols.end());
  for (size_t i = 0; i + 1 < symbols.size(); ++i) change(symbols[i], symbols[i + 1], count, word);
}

std::optional<Join> PairJoiner::step(int64_t min_count) {
  push_changed();
  while (!heap_.empty()) {
    const Candidate top = heap_.top();
    heap_.pop();
    const auto found = pairs_.find(top.pair);
    if (found == pairs_.end()) continue;
    if (found->second.count != top.count) {
      if (found->second.count > 0) heap_.push({found->second.count, top.pair});
      continue;
    }
    if (top.count < std::max<int64_t>(min_count, 1)) return std::nullopt;
    const std::vector<uint32_t> where = std::move(found->second.words);
    pairs_.erase(found);
    return join(top.pair, where);
  }
  return std::nullopt;
}

void PairJoiner::change(int32_t left, int32_t right, int64_t by, uint32_t word) {
  Pair& pair = pairs_[pair_key(left, right)];
  pair.count += by;
  if (by <= 0) return;
  if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
  changed_.push_back(pair_key(left, right));
}

void PairJoiner::push_changed() {
  std::sort(changed_.begin(), changed_.end());
  changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
  for (const uint64_t pair : changed_) heap_.push({pairs_[pair].count, pair});
  changed_.clear();
}

Join PairJoiner::join(uint64_t pair, const std::vector<uint32_t>& where) {
  const auto left = static_cast<int32_t>(pair >> 32);
  const auto right = static_cast<int32_t>(pair & 0xFFFFFFFF);
  const int32_t joined = pieces_.id_of(pieces_[left] + pieces_[right].substr(inner_prefix_.size()));
  for (const uint32_t w : where) {
    Word& word = words_[w];
    int32_t* symbols = symbols_.data() + word.begin;
    size_t write = 0;
    for (size_t read = 0; read < word.size; ++read, ++write) {
      symbols[write] = symbols[read];
      if (symbols[read] != left || read + 1 >= word.size || symbols[read + 1] != right) continue;
      symbols[write] = joined;
      ++read;
      if (write > 0) {
        change_old(symbols[write - 1], left, pair, word.count);
        change(symbols[write - 1], joined, word.count, w);
      }
      if (read + 1 < word.size) {
        change_old(right, symbols[read + 1], pair, word.count);
        change(joined, symbols[read + 1], word.count, w);
      }
    }
    word.size = write;
  }
  push_changed();
  return {left, right, joined};
}

// A pair that a join takes apart; the joined pair itself is gone already.
void PairJoiner::change_old(int32_t left, int32_t right, uint64_t joined_pair, int64_t by) {
  if (pair_key(left, right) == joined_pair) return;
  const auto found = pairs_.find(pair_key(left, right));
  if (found != pairs_.end()) found->second.count -= by;
}

}  // namespace msplora::detail
