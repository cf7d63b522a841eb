#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/model.h"

namespace msplora::detail {
namespace {

// A piece is a token or unknown.
class WordLevel : public Model {
 public:
  WordLevel(Vocabulary vocabulary, std::string unk_token, std::string where)
      : Model(std::move(vocabulary)), unk_token_(std::move(unk_token)), where_(std::move(where)) {
    unk_id_ = vocabulary_.find(unk_token_);
  }

  void tokenize(std::string_view word, ModelScratch&, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    if (ranges) ranges->push_back({0, word.size()});
    const int32_t id = vocabulary_.table().find(word);
    if (id != StringTable::kNone) return ids.push_back(id);
    if (!unk_id_) {
      throw Error(ErrorCode::kData, where_,
                  "\"" + std::string(word) +
                      "\" is not in the vocabulary, and neither is the unknown token \"" + unk_token_ + "\"");
    }
    ids.push_back(*unk_id_);
  }

  std::optional<std::string> unk_token() const override {
    return unk_id_ ? std::optional(unk_token_) : std::nullopt;
  }

 private:
  std::string unk_token_;
  std::string where_;
  std::optional<int32_t> unk_id_;
};

}  // namespace

std::unique_ptr<const Model> make_word_level(const JsonView& json) {
  return std::make_unique<WordLevel>(read_vocabulary(json.at("vocab")), json.string_or("unk_token", "<unk>"),
                                     json.where());
}

}  // namespace msplora::detail
