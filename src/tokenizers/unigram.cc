#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/core/dump_json.h"

#include "tokenizers/model.h"
#include "tokenizers/unicode.h"
#include "tokenizers/unigram_lattice.h"

namespace msplora::detail {
namespace {

// Hugging Face's model: scores and sums in float64.
class Unigram : public Model {
 public:
  Unigram(Vocabulary vocabulary, std::vector<double> scores, std::optional<int32_t> unk_id,
          bool byte_fallback, std::string where)
      : Model(std::move(vocabulary)),
        lattice_(vocabulary_, std::move(scores), {}, unk_id),
        unk_id_(unk_id),
        byte_fallback_(byte_fallback),
        bytes_(byte_pieces(vocabulary_)),
        where_(std::move(where)) {}

  void tokenize(std::string_view text, ModelScratch& scratch, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    if (const auto stuck = lattice_.find_path(text, scratch)) {
      throw Error(ErrorCode::kData, where_,
                  "no piece is \"" + std::string(text.substr(*stuck, utf8_length(text[*stuck]))) +
                      "\", and there is no unk_id");
    }
    const auto add = [&](int32_t id, const ModelScratch::Part& part) {
      ids.push_back(id);
      if (ranges) ranges->push_back({part.begin, part.end});
    };
    for (const auto& part : scratch.path) {
      if (!unk_id_ || part.id != *unk_id_) {
        add(part.id, part);
        continue;
      }
      // Unknown characters side by side may be a piece that lost to them.
      const std::string_view piece = text.substr(part.begin, part.end - part.begin);
      const int32_t id = vocabulary_.table().find(piece);
      const auto id_of = [this](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
      if (id != StringTable::kNone) {
        add(id, part);
      } else if (byte_fallback_ && std::all_of(piece.begin(), piece.end(), [&](char byte) {
                   return id_of(byte) != StringTable::kNone;
                 })) {
        for (const char byte : piece) add(id_of(byte), part);
      } else {
        add(*unk_id_, part);
      }
    }
  }

  std::optional<std::string> unk_token() const override {
    return unk_id_ ? std::optional(vocabulary_.token(*unk_id_)) : std::nullopt;
  }

 private:
  UnigramLattice<double> lattice_;
  std::optional<int32_t> unk_id_;
  bool byte_fallback_;
  std::array<int32_t, 256> bytes_;
  std::string where_;
};

}  // namespace

std::unique_ptr<const Model> make_unigram(const JsonView& json) {
  const JsonView list = json.at("vocab");
  if (!list.node().is_array()) list.fail(std::string("expected an array, found ") + list.node().type_name());
  const auto& node = list.node();
  if (node.empty()) list.fail("the vocabulary is empty");
  Vocabulary vocabulary;
  std::vector<double> scores;
  for (size_t i = 0; i < node.size(); ++i) {
    const auto& entry = node[i];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      list.fail("entry " + std::to_string(i) + " must be [\"piece\", score], found " + dump_json(entry));
    }
    const auto id = static_cast<int32_t>(i);
    vocabulary.set(entry[0].get_ref<const std::string&>(), id);
    scores.push_back(entry[1].get<double>());
  }
  std::optional<int32_t> unk_id;
  if (const auto unk = json.find("unk_id"))
    unk_id = static_cast<int32_t>(unk->integer(0, static_cast<int64_t>(node.size()) - 1));
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), unk_id,
                                   json.boolean_or("byte_fallback", false), json.where());
}

}  // namespace msplora::detail
