#include "tokenizers/added_tokens.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {
namespace {

bool is_word_at(std::string_view text, size_t at) {
  const char* p = text.data() + at;
  return (char_class(bmp_classes(), next_code_point(p)) & kWord) != 0;
}

bool is_word_before(std::string_view text, size_t at) {
  return (char_class(bmp_classes(), code_point_before(text.data() + at)) & kWord) != 0;
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const JsonView& json) {
  std::vector<AddedToken> tokens;
  for (const auto& item : json.elements()) {
    AddedToken token;
    token.id = static_cast<int32_t>(item.at("id").integer(0, Vocabulary::kLargestId));
    token.content = item.at("content").string();
    token.single_word = item.boolean_or("single_word", false);
    token.lstrip = item.boolean_or("lstrip", false);
    token.rstrip = item.boolean_or("rstrip", false);
    token.special = item.boolean_or("special", false);
    token.normalized = item.boolean_or("normalized", !token.special);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, bool normalized,
                                     const Normalizer* normalizer) {
  std::string spare;
  for (const auto& token : tokens) {
    if (token.normalized != normalized) continue;
    std::string pattern = token.content;
    if (normalizer) normalizer->apply(pattern, spare);
    if (!pattern.empty()) entries_.push_back({std::move(pattern), token});
  }
  const auto first = [](const Entry& entry) { return static_cast<unsigned char>(entry.pattern[0]); };
  std::stable_sort(entries_.begin(), entries_.end(), [&](const Entry& a, const Entry& b) {
    return first(a) != first(b) ? first(a) < first(b) : a.pattern.size() > b.pattern.size();
  });
  for (size_t i = 0; i < entries_.size(); ++i) {
    auto& range = ranges_[first(entries_[i])];
    if (range.second == 0) range.first = i;
    range.second = i + 1;
  }
  if (!entries_.empty() && first(entries_.front()) == first(entries_.back()))
    first_byte_ = first(entries_.front());
}

const AddedToken* AddedTokenMatcher::match(std::string_view text, size_t at, size_t& size) const {
  const auto [begin, end] = ranges_[static_cast<unsigned char>(text[at])];
  for (size_t i = begin; i < end; ++i) {
    const std::string& pattern = entries_[i].pattern;
    if (text.compare(at, pattern.size(), pattern) != 0) continue;
    size = pattern.size();
    return &entries_[i].token;
  }
  return nullptr;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Part>& parts) const {
  if (text.empty()) return;
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !entries_.empty();) {
    if (first_byte_ >= 0) {
      at = text.find(static_cast<char>(first_byte_), at);
      if (at == std::string_view::npos) break;
    }
    size_t size = 0;
    const AddedToken* token = match(text, at, size);
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + size;
    at = end;
    if (token->single_word &&
        ((begin > 0 && is_word_before(text, begin)) || (end < text.size() && is_word_at(text, end)))) {
      continue;
    }
    const auto& classes = bmp_classes();
    while (token->lstrip && begin > done &&
           (char_class(classes, code_point_before(text.data() + begin)) & kSpace)) {
      do --begin;
      while (is_continuation(text[begin]));
    }
    while (token->rstrip && end < text.size()) {
      const char* p = text.data() + end;
      if (!(char_class(classes, next_code_point(p)) & kSpace)) break;
      end = static_cast<size_t>(p - text.data());
    }
    if (done < begin) parts.push_back({done, begin, kText});
    parts.push_back({begin, end, token->id});
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) parts.push_back({done, text.size(), kText});
}

}  // namespace msplora::detail
