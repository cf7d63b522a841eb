#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizers/sentencepiece.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

using nlohmann::json;
using Type = SentencePieceFile::Type;

struct ScoredMerge {
  int64_t result, left, right;
};

bool takes_part(Type type) {
  return type == Type::kNormal || type == Type::kUserDefined || type == Type::kUnused;
}

// Every pair of pieces that makes a piece: user-defined results first, as their scores mean nothing, then by
// the score of the result.
std::vector<ScoredMerge> merges_of(const SentencePieceFile& file) {
  std::unordered_map<std::string_view, int64_t> ids;
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    if (takes_part(file.pieces[i].type)) ids.emplace(file.pieces[i].text, static_cast<int64_t>(i));
  }
  std::vector<ScoredMerge> merges;
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    const std::string_view text = file.pieces[i].text;
    if (!takes_part(file.pieces[i].type)) continue;
    for (size_t cut = utf8_length(text[0]); cut < text.size(); cut += utf8_length(text[cut])) {
      const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({static_cast<int64_t>(i), left->second, right->second});
    }
  }
  const auto piece = [&](int64_t id) -> const SentencePieceFile::Entry& {
    return file.pieces[static_cast<size_t>(id)];
  };
  std::stable_sort(merges.begin(), merges.end(), [&](const ScoredMerge& a, const ScoredMerge& b) {
    const auto& first = piece(a.result);
    const auto& second = piece(b.result);
    const bool is_first = first.type == Type::kUserDefined, is_second = second.type == Type::kUserDefined;
    if (is_first != is_second) return is_first;
    if (is_first) return a.result < b.result;
    if (first.score != second.score) return first.score > second.score;
    return a.left != b.left ? a.left < b.left : a.right < b.right;
  });
  return merges;
}

json replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

}  // namespace

json sentencepiece_bpe_json(const SentencePieceFile& file, const json& post_processor) {
  BytePairParts parts;
  json normalizers = json::array(), decoders = json::array();
  if (file.add_dummy_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kWordStart}});
  normalizers.push_back(replace(" ", kWordStart));
  decoders.push_back(replace(kWordStart, " "));
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (file.add_dummy_prefix)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    const auto& [text, score, type] = file.pieces[i];
    parts.vocabulary[text] = i;
    const bool is_special = type == Type::kControl || type == Type::kUnknown;
    if (is_special || type == Type::kUserDefined)
      parts.added_tokens.push_back(added_token(static_cast<int64_t>(i), text, is_special));
  }
  for (const ScoredMerge& merge : merges_of(file)) {
    parts.merges.push_back({file.pieces[static_cast<size_t>(merge.left)].text,
                            file.pieces[static_cast<size_t>(merge.right)].text});
  }
  parts.normalizer = in_sequence("normalizers", std::move(normalizers));
  parts.post_processor = post_processor;
  parts.decoder = in_sequence("decoders", std::move(decoders));
  parts.unk_token = file.pieces[static_cast<size_t>(file.unk_id)].text;
  parts.fuse_unk = true;
  parts.byte_fallback = file.byte_fallback;
  return make_byte_pair_json(std::move(parts));
}

}  // namespace msplora::detail
