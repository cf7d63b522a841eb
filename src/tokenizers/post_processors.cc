#include "tokenizers/post_processors.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {
namespace {

using Kind = PostProcessor::Kind;
using Item = PostProcessor::Item;

int32_t read_id(const JsonView& json) {
  return static_cast<int32_t>(json.integer(0, Vocabulary::kLargestId));
}

// ["[SEP]", 102]
int32_t read_token_pair(const JsonView& json) {
  const auto parts = json.elements();
  if (parts.size() != 2) json.fail("expected [token, id]");
  return read_id(parts[1]);
}

// [CLS] A [SEP] B [SEP] (BERT) or <s> A </s> </s> B </s> (RoBERTa, with type 0 throughout).
PostProcessor make_fixed(const JsonView& json, bool roberta) {
  const std::vector<int32_t> cls = {read_token_pair(json.at("cls"))};
  const std::vector<int32_t> sep = {read_token_pair(json.at("sep"))};
  const int32_t second = roberta ? 0 : 1;
  PostProcessor result;
  result.single = {{Kind::kSpecial, 0, cls}, {Kind::kFirst, 0, {}}, {Kind::kSpecial, 0, sep}};
  result.pair = result.single;
  if (roberta) result.pair.push_back({Kind::kSpecial, 0, sep});
  result.pair.push_back({Kind::kSecond, second, {}});
  result.pair.push_back({Kind::kSpecial, second, sep});
  return result;
}

std::vector<Item> read_template(const JsonView& json, const std::optional<JsonView>& special_tokens) {
  std::vector<Item> items;
  for (const auto& piece : json.elements()) {
    const auto sequence = piece.find("Sequence");
    const auto special = piece.find("SpecialToken");
    if (!sequence && !special) piece.fail("expected {\"Sequence\": ...} or {\"SpecialToken\": ...}");
    const JsonView& body = sequence ? *sequence : *special;
    const auto type_id = static_cast<int32_t>(body.at("type_id").integer(0, INT32_MAX));
    const std::string id = body.at("id").string();
    if (sequence) {
      if (id != "A" && id != "B") body.at("id").fail("expected A or B, found \"" + id + "\"");
      items.push_back({id == "A" ? Kind::kFirst : Kind::kSecond, type_id, {}});
      continue;
    }
    const auto known = special_tokens ? special_tokens->find(id) : std::nullopt;
    if (!known) body.at("id").fail("\"" + id + "\" is not among the special_tokens of this template");
    Item item{Kind::kSpecial, type_id, {}};
    for (const auto& value : known->at("ids").elements()) item.ids.push_back(read_id(value));
    items.push_back(std::move(item));
  }
  return items;
}

PostProcessor make_template(const JsonView& json) {
  const auto special_tokens = json.find("special_tokens");
  PostProcessor result;
  result.single = read_template(json.at("single"), special_tokens);
  result.pair = read_template(json.at("pair"), special_tokens);
  for (const auto& item : result.single) {
    if (item.kind == Kind::kSecond) json.at("single").fail("a single text has no sequence B");
  }
  return result;
}

// ByteLevel and RoBERTa.
void read_trimming(const JsonView& json, PostProcessor& result) {
  result.trims_offsets = json.boolean_or("trim_offsets", true);
  result.keeps_first_space = json.boolean_or("add_prefix_space", true);
}

PostProcessor make_sequence(const JsonView& json) {
  PostProcessor result;
  bool has_one = false;
  std::optional<PostProcessor> trimming;
  for (const auto& part : json.at("processors").elements()) {
    PostProcessor next = make_post_processor(part);
    if (part.at("type").string() == "ByteLevel") {
      trimming = std::move(next);
      continue;
    }
    if (has_one) part.fail("only one processor of a sequence may add tokens");
    has_one = true;
    result = std::move(next);
  }
  if (trimming && trimming->trims_offsets) {
    result.trims_offsets = true;
    result.keeps_first_space = trimming->keeps_first_space;
  }
  return result;
}

bool is_space_of_token(char32_t c) {
  return c == byte_level_alphabet()[' '] || (char_class(bmp_classes(), c) & kSpace) != 0;
}

}  // namespace

void PostProcessor::trim(std::string_view token, bool is_first, TextSpan& span) const {
  const char* const begin = token.data();
  const char* const end = begin + token.size();
  size_t leading = 0, trailing = 0;
  for (const char* p = begin; p < end && is_space_of_token(next_code_point(p));) ++leading;
  for (const char* p = end; p > begin && is_space_of_token(code_point_before(p)); ++trailing) {
    do --p;
    while (is_continuation(*p));
  }
  if (leading > 0) {
    if ((is_first || span.begin == 0) && keeps_first_space) leading = 0;
    span.begin = std::min(span.begin + leading, span.end);
  }
  if (trailing > 0 && span.end >= trailing) span.end = std::max(span.end - trailing, span.begin);
}

size_t PostProcessor::added(bool is_pair) const {
  size_t count = 0;
  for (const auto& item : is_pair ? pair : single) count += item.ids.size();
  return count;
}

PostProcessor make_post_processor(const JsonView& json) {
  const std::string type = json.at("type").string();
  if (type == "TemplateProcessing") return make_template(json);
  if (type == "BertProcessing") return make_fixed(json, false);
  if (type == "RobertaProcessing") {
    PostProcessor result = make_fixed(json, true);
    read_trimming(json, result);
    return result;
  }
  if (type == "ByteLevel") {
    PostProcessor result;
    read_trimming(json, result);
    return result;
  }
  if (type == "Sequence") return make_sequence(json);
  json.fail_unknown("post-processor",
                    {"TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence"});
}

}  // namespace msplora::detail
