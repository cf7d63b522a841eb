#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/byte_trie.h"
#include "tokenizers/model.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// How much worse than the worst piece a character is that no piece begins with.
constexpr double kUnknownPenalty = 10.0;

// The segmentation of highest summed score (Viterbi). Of equal sums the one found first stays, pieces being
// tried by where they begin and then by their length.
class Unigram : public Model {
 public:
  Unigram(Vocabulary vocabulary, std::vector<double> scores, const std::vector<int32_t>& pieces,
          std::optional<int32_t> unk_id, bool byte_fallback, std::string where)
      : Model(std::move(vocabulary)),
        scores_(std::move(scores)),
        trie_(entries(pieces)),
        unk_id_(unk_id),
        byte_fallback_(byte_fallback),
        where_(std::move(where)) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const double score : scores_) lowest = std::min(lowest, score);
    unknown_score_ = lowest - kUnknownPenalty;
    for (size_t byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02zX>", byte);
      bytes_[byte] = vocabulary_.table().find(name);
    }
  }

  void tokenize(std::string_view text, ModelScratch& scratch, std::vector<int32_t>& ids) const override {
    find_path(text, scratch);
    emit(text, scratch, ids);
  }

  std::optional<std::string> unk_token() const override {
    return unk_id_ ? std::optional(vocabulary_.token(*unk_id_)) : std::nullopt;
  }

 private:
  using Step = ModelScratch::Step;
  static constexpr int32_t kNotReached = -1;

  std::vector<std::pair<std::string_view, int32_t>> entries(const std::vector<int32_t>& pieces) const {
    std::vector<std::pair<std::string_view, int32_t>> result;
    for (const int32_t id : pieces) result.emplace_back(vocabulary_.token(id), id);
    return result;
  }

  // Fills scratch.steps: how the best segmentation of each beginning of the text ends.
  void find_path(std::string_view text, ModelScratch& scratch) const {
    auto& steps = scratch.steps;
    steps.assign(text.size() + 1, {0.0, 0, kNotReached});
    for (size_t at = 0; at < text.size();) {
      const double so_far = steps[at].score;
      const size_t character = std::min(utf8_length(text[at]), text.size() - at);
      bool has_character = false;
      const auto offer = [&](size_t size, int32_t id, double score) {
        Step& target = steps[at + size];
        const double sum = score + so_far;
        if (target.id == kNotReached || sum > target.score) target = {sum, at, id};
      };
      trie_.for_each_prefix(text.substr(at), [&](size_t size, int32_t id) {
        offer(size, id, scores_[static_cast<size_t>(id)]);
        has_character |= size == character;
      });
      if (!has_character) {
        if (!unk_id_) {
          throw Error(
              ErrorCode::kData, where_,
              "no piece is \"" + std::string(text.substr(at, character)) + "\", and there is no unk_id");
        }
        offer(character, *unk_id_, unknown_score_);
      }
      at += character;
    }
    // Backwards; neighbouring unknown characters are one.
    auto& path = scratch.path;
    path.clear();
    bool unknown_before = false;
    for (size_t end = text.size(); end > 0;) {
      const Step& step = steps[end];
      const bool unknown = unk_id_ && step.id == *unk_id_;
      if (unknown && unknown_before)
        path.back().begin = step.begin;
      else
        path.push_back({step.begin, end, step.id});
      unknown_before = unknown;
      end = step.begin;
    }
    std::reverse(path.begin(), path.end());
  }

  void emit(std::string_view text, const ModelScratch& scratch, std::vector<int32_t>& ids) const {
    for (const auto& part : scratch.path) {
      const std::string_view piece = text.substr(part.begin, part.end - part.begin);
      if (!unk_id_ || part.id != *unk_id_) {
        ids.push_back(part.id);
        continue;
      }
      // Unknown characters side by side may be a piece that lost to them.
      const int32_t id = vocabulary_.table().find(piece);
      if (id != StringTable::kNone) {
        ids.push_back(id);
      } else if (byte_fallback_ && std::all_of(piece.begin(), piece.end(), [&](char byte) {
                   return bytes_[static_cast<unsigned char>(byte)] != StringTable::kNone;
                 })) {
        for (const char byte : piece) ids.push_back(bytes_[static_cast<unsigned char>(byte)]);
      } else {
        ids.push_back(*unk_id_);
      }
    }
  }

  std::vector<double> scores_;  // by id
  ByteTrie trie_;
  std::optional<int32_t> unk_id_;
  bool byte_fallback_;
  std::string where_;
  double unknown_score_ = 0.0;
  std::array<int32_t, 256> bytes_{};  // ids of <0x00> to <0xFF>
};

}  // namespace

std::unique_ptr<const Model> make_unigram(const JsonView& json) {
  const JsonView list = json.at("vocab");
  if (!list.node().is_array()) list.fail(std::string("expected an array, found ") + list.node().type_name());
  const auto& node = list.node();
  if (node.empty()) list.fail("the vocabulary is empty");
  Vocabulary vocabulary;
  std::vector<double> scores;
  std::vector<int32_t> pieces;
  for (size_t i = 0; i < node.size(); ++i) {
    const auto& entry = node[i];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      list.fail("entry " + std::to_string(i) + " must be [\"piece\", score], found " +
                entry.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
    const auto id = static_cast<int32_t>(i);
    vocabulary.set(entry[0].get_ref<const std::string&>(), id);
    scores.push_back(entry[1].get<double>());
    pieces.push_back(id);
  }
  std::optional<int32_t> unk_id;
  if (const auto unk = json.find("unk_id"))
    unk_id = static_cast<int32_t>(unk->integer(0, static_cast<int64_t>(node.size()) - 1));
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), pieces, unk_id,
                                   json.boolean_or("byte_fallback", false), json.where());
}

}  // namespace msplora::detail
