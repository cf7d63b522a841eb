#include "tokenizers/model.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// Longest match first, left to right; a word with any part that matches nothing is one unknown token.
class WordPiece : public Model {
 public:
  WordPiece(Vocabulary vocabulary, int32_t unk_id, const std::string& prefix, size_t max_chars)
      : Model(std::move(vocabulary)), unk_id_(unk_id), max_chars_(max_chars) {
    for (size_t i = 0; i < vocabulary_.size(); ++i) {
      const auto id = static_cast<int32_t>(i);
      if (!vocabulary_.has(id)) continue;
      const std::string_view token = vocabulary_.token(id);
      longest_first_ = std::max(longest_first_, token.size());
      if (!token.starts_with(prefix)) continue;
      inner_.set(token.substr(prefix.size()), id);
      longest_inner_ = std::max(longest_inner_, token.size() - prefix.size());
    }
  }

  void tokenize(std::string_view word, ModelScratch&, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    const size_t before = ids.size();
    const size_t ranges_before = ranges ? ranges->size() : 0;
    const auto unknown = [&] {
      ids.resize(before);
      ids.push_back(unk_id_);
      if (!ranges) return;
      ranges->resize(ranges_before);
      ranges->push_back({0, word.size()});
    };
    if (word.size() > max_chars_ && count_code_points(word) > max_chars_) return unknown();
    for (size_t begin = 0; begin < word.size();) {
      const StringTable& table = begin == 0 ? vocabulary_.table() : inner_;
      size_t size = std::min(word.size() - begin, begin == 0 ? longest_first_ : longest_inner_);
      int32_t id = StringTable::kNone;
      for (; size > 0; --size) {
        if (begin + size < word.size() && is_continuation(word[begin + size])) continue;
        id = table.find(word.substr(begin, size));
        if (id != StringTable::kNone) break;
      }
      if (size == 0) return unknown();
      ids.push_back(id);
      if (ranges) ranges->push_back({begin, begin + size});
      begin += size;
    }
  }

  std::optional<std::string> unk_token() const override { return vocabulary_.token(unk_id_); }

 private:
  int32_t unk_id_;
  size_t max_chars_;
  StringTable inner_;  // tokens that continue a word, without their prefix
  size_t longest_first_ = 0;
  size_t longest_inner_ = 0;
};

}  // namespace

std::unique_ptr<const Model> make_wordpiece(const JsonView& json) {
  Vocabulary vocabulary = read_vocabulary(json.at("vocab"));
  const std::string unk = json.string_or("unk_token", "[UNK]");
  const auto unk_id = vocabulary.find(unk);
  if (!unk_id) json.fail("the unknown token \"" + unk + "\" is not in the vocabulary");
  const auto max_chars = json.find("max_input_chars_per_word");
  return std::make_unique<WordPiece>(std::move(vocabulary), *unk_id,
                                     json.string_or("continuing_subword_prefix", "##"),
                                     max_chars ? static_cast<size_t>(max_chars->integer(0, INT32_MAX)) : 100);
}

Vocabulary read_vocabulary(const JsonView& json) {
  if (!json.node().is_object())
    json.fail(std::string("expected an object, found ") + json.node().type_name());
  Vocabulary vocabulary;
  for (const auto& item : json.node().items()) {
    const auto& value = item.value();
    const bool fits = value.is_number_integer() && value.get<int64_t>() >= 0 &&
                      value.get<int64_t>() <= Vocabulary::kLargestId;
    if (!fits) {
      json.fail("the id of \"" + item.key() + "\" must be an integer from 0 to " +
                std::to_string(Vocabulary::kLargestId) + ", found " + value.dump());
    }
    const auto id = value.get<int32_t>();
    if (vocabulary.has(id)) {
      json.fail("\"" + vocabulary.token(id) + "\" and \"" + item.key() + "\" have the same id " +
                std::to_string(id));
    }
    vocabulary.set(item.key(), id);
  }
  return vocabulary;
}

std::unique_ptr<const Model> make_model(const JsonView& json) {
  // Old files leave out the type; only BPE has merges, only Unigram a list, only WordPiece a word length
  // limit.
  const auto untyped = [&] {
    if (json.node().contains("merges")) return "BPE";
    return json.at("vocab").node().is_array() ? "Unigram" : "WordPiece";
  };
  const auto given = json.find("type");
  const std::string type = given ? given->string() : untyped();
  if (type == "WordPiece") return make_wordpiece(json);
  if (type == "BPE") return make_bpe(json);
  if (type == "Unigram") return make_unigram(json);
  if (type == "WordLevel") return make_word_level(json);
  json.fail_unknown("model", {"WordPiece", "BPE", "Unigram", "WordLevel"});
}

}  // namespace msplora::detail
