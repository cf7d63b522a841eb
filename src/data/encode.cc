#include "msplora/data/encode.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fmt/format.h"

namespace msplora {
namespace {

constexpr size_t kChunk = 8192;

std::vector<Encoding> encode_chunk(const Dataset& data, size_t begin, size_t end, const Tokenizer& tokenizer,
                                   int64_t max_length, int threads) {
  std::vector<TextPair> texts;
  texts.reserve(end - begin);
  for (size_t i = begin; i < end; ++i) {
    const Example& example = data[i];
    TextPair& text = texts.emplace_back();
    text.text = example.text;
    if (example.has_pair) text.pair = example.text_pair;
  }
  EncodeOptions options;
  options.max_length = static_cast<size_t>(max_length);
  return tokenizer.encode_batch(texts, options, threads);
}

void add_to(EncodeSummary& summary, const Encoding& encoding, size_t special,
            std::optional<int32_t> unknown) {
  const auto length = static_cast<int64_t>(encoding.ids.size());
  summary.add(length);
  summary.unknown.of += length - static_cast<int64_t>(special);
  if (unknown) summary.unknown.count += std::count(encoding.ids.begin(), encoding.ids.end(), *unknown);
  if (encoding.dropped_tokens > 0) ++summary.truncated_examples;
  summary.dropped_tokens += static_cast<int64_t>(encoding.dropped_tokens);
}

}  // namespace

std::optional<int32_t> countable_unknown(const Tokenizer& tokenizer) {
  const std::optional<int32_t> id = tokenizer.unk_id();
  for (const auto& other :
       {tokenizer.cls_id(), tokenizer.sep_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()}) {
    if (id == other) return std::nullopt;
  }
  return id;
}

std::string UnknownTokens::note() const {
  constexpr double kNoticeable = 0.01;
  return share() < kNoticeable ? "" : fmt::format("{:.1f} % of the tokens are {}", 100.0 * share(), token);
}

void EncodeSummary::add(int64_t length) {
  shortest = examples == 0 ? length : std::min(shortest, length);
  longest = std::max(longest, length);
  tokens += length;
  ++examples;
}

std::string EncodeSummary::text() const {
  std::string line = fmt::format("{} examples, {} tokens, lengths {} to {}, mean {:.1f}", examples, tokens,
                                 shortest, longest, mean());
  if (truncated_examples > 0) {
    line += fmt::format("; {} examples ({:.1f}%) were truncated, {} tokens dropped", truncated_examples,
                        100.0 * static_cast<double>(truncated_examples) / static_cast<double>(examples),
                        dropped_tokens);
  }
  if (rows_too_long > 0) line += fmt::format("; {} longer rows were left out", rows_too_long);
  if (rows_without_loss > 0)
    line += fmt::format("; {} rows were left out, of which nothing would be learned", rows_without_loss);
  if (teaches_no_end)
    line +=
        "; nothing that is learned ends an answer: none of the template's marks there is a special token of "
        "this model (data.chat.template), which will not learn to stop";
  if (const std::string note = unknown.note(); !note.empty()) line += "; " + note;
  return line;
}

EncodedDataset encode_dataset(const Dataset& data, LabelKind kind, const LabelMap* labels,
                              const Tokenizer& tokenizer, int64_t max_length, int threads) {
  if (max_length < 0) {
    throw Error(ErrorCode::kUsage, "encode_dataset",
                fmt::format("expected a length of 0 or more, got {}", max_length));
  }
  if (data.has_labels() && kind == LabelKind::kClass && labels == nullptr) {
    throw Error(ErrorCode::kUsage, "encode_dataset", "a labelled classification data set needs a label map");
  }
  EncodedDataset result;
  result.examples.reserve(data.size());
  // Labels first: a wrong one should not wait for the tokenizer.
  for (size_t i = 0; i < data.size(); ++i) {
    TokenizedExample& example = result.examples.emplace_back();
    if (!data.has_labels() || kind == LabelKind::kNone) continue;
    if (kind == LabelKind::kNumber) {
      example.target = regression_target(data, i);
    } else {
      example.label = labels->index_of(data, i);
    }
  }
  const std::optional<int32_t> unknown = countable_unknown(tokenizer);
  if (unknown) result.summary.unknown.token = tokenizer.id_to_token(*unknown);
  for (size_t begin = 0; begin < data.size(); begin += kChunk) {
    const size_t end = std::min(begin + kChunk, data.size());
    std::vector<Encoding> encodings = encode_chunk(data, begin, end, tokenizer, max_length, threads);
    for (size_t i = begin; i < end; ++i) {
      Encoding& encoding = encodings[i - begin];
      if (encoding.ids.empty()) {
        throw Error(ErrorCode::kData, data.where(i), "the text is empty and gives no tokens");
      }
      add_to(result.summary, encoding, tokenizer.special_tokens_added(data[i].has_pair), unknown);
      TokenizedExample& example = result.examples[i];
      example.ids = std::move(encoding.ids);
      const bool typed =
          std::any_of(encoding.type_ids.begin(), encoding.type_ids.end(), [](int32_t t) { return t != 0; });
      if (typed) example.type_ids = std::move(encoding.type_ids);
    }
  }
  return result;
}

}  // namespace msplora
