#include "msplora/data/encode_conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "msplora/templates/messages.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;
using Spans = std::vector<std::pair<size_t, size_t>>;

constexpr size_t kRowsAtOnce = 2048;
// Where the template does not mark what is said, each answer costs two renderings of all that stands before
// it.
constexpr size_t kMostMessagesUnmarked = 1000;

/// A row as text, and the bytes of it that are learned.
struct Written {
  std::string text;
  Spans learned;
  bool has_special_tokens = false;  // written by the template
  // What a model is given before it answers: the tokens that it begins with as the text does are not learned.
  std::optional<std::string> given;
};

bool is_white_space(const std::string& text) {
  return text.find_first_not_of(" \n\r\t") == std::string::npos;
}

/// What a message begins with.
std::string first_text(const Json& content) {
  if (content.is_array() && !content.empty()) return content.front().value("text", "");
  return content.is_string() ? content.get<std::string>() : "";
}

Spans without(const Spans& spans, const std::pair<size_t, size_t>& out) {
  Spans left;
  for (const auto& [begin, end] : spans) {
    if (begin < std::min(end, out.first)) left.emplace_back(begin, std::min(end, out.first));
    if (std::max(begin, out.second) < end) left.emplace_back(std::max(begin, out.second), end);
  }
  return left;
}

class Writer {
 public:
  Writer(const ConversationEncoding& how, const Dataset& rows) : how_(how), rows_(rows) {
    if (const auto end = how.tokenizer->eos_id()) end_ = how.tokenizer->id_to_token(*end);
  }

  Written write(size_t index) const {
    if (interrupt_requested())
      throw Error(ErrorCode::kInterrupted, rows_.path().string(), "stopped while writing conversations");
    const Json row = Json::parse(rows_[index].text);
    try {
      if (row.contains("messages")) return of_messages(row["messages"], row);
      if (row.contains("text")) return of_text(row["text"]);
      if (row["prompt"].is_array()) return of_message_completion(row);
      return of_completion(row["prompt"], row["completion"]);
    } catch (const Error& error) {
      throw error_of_row(error, rows_.where(index));
    }
  }

 private:
  const std::string& loss_on() const { return how_.options.loss_on; }

  void check_roles(const Json& messages) const {
    if (how_.chat_template == nullptr) {
      throw Error(ErrorCode::kData, "", "messages need a chat template, and the model's files have none",
                  "name one with data.chat.template");
    }
    msplora::check_roles(messages, *how_.chat_template);
  }

  /// `messages` are fitted to the template.
  RenderedText render(const Json& messages, const Json& row, bool is_prompt) const {
    ChatOptions options;
    options.add_generation_prompt = is_prompt;
    if (row.contains("tools")) options.tools = row["tools"];
    return how_.chat_template->render(messages, options);
  }

  Written of_messages(const Json& given, const Json& row) const {
    check_roles(given);
    if (loss_on() == "completion")
      throw Error(ErrorCode::kData, "", "a conversation has no completion", "data.chat.loss_on: assistant");
    const Json messages = fitted_messages(given, *how_.chat_template);
    RenderedText rendered = render(messages, row, false);
    Written written{std::move(rendered.text), {}, true, {}};
    if (loss_on() == "all") {
      written.learned = {{0, written.text.size()}};
    } else {
      written.learned = answers(written.text, rendered.generated, given, messages, row);
    }
    leave_out_weightless(written, rendered.generated, given, messages, row);
    return written;
  }

  /// What the assistant says, or with loss_on `last` its last message: what the template marks, else what can
  /// be told without.
  Spans answers(const std::string& text, const Spans& marked, const Json& given, const Json& messages,
                const Json& row) const {
    const auto is_wanted = [&](size_t i) {
      return !has_no_weight(given[i]) && (loss_on() != "last" || i + 1 == messages.size());
    };
    Spans spans = marked.empty() ? said(text, messages, row, is_wanted) : marked;
    if (loss_on() == "last" && spans.size() > 1) spans = {spans.back()};
    return spans;
  }

  /// Messages of weight 0 are not learned. `given` are the messages with their weights.
  void leave_out_weightless(Written& written, const Spans& marked, const Json& given, const Json& messages,
                            const Json& row) const {
    std::vector<size_t> assistants;
    bool has_weights = false;
    for (size_t i = 0; i < given.size(); ++i) {
      const bool is_assistant = given[i].value("role", "") == "assistant";
      if (is_assistant) assistants.push_back(i);
      if (!has_no_weight(given[i])) continue;
      has_weights = true;
      if (is_assistant || loss_on() != "all") continue;
      throw Error(ErrorCode::kData, "",
                  fmt::format("messages[{}].weight: what others than the assistant say is left out by "
                              "data.chat.loss_on, which is `all`",
                              i),
                  "data.chat.loss_on: assistant");
    }
    const bool are_left_out = marked.empty() && (loss_on() == "assistant" || loss_on() == "last");
    if (!has_weights || are_left_out) return;
    const auto is_left_out = [&](size_t i) { return has_no_weight(given[i]); };
    Spans out;
    if (marked.size() != assistants.size()) {
      out = said(written.text, messages, row, is_left_out);
    } else {
      for (size_t k = 0; k < assistants.size(); ++k) {
        if (is_left_out(assistants[k])) out.push_back(marked[k]);
      }
    }
    for (const auto& span : out) written.learned = without(written.learned, span);
  }

  /// What the messages of the assistant that are wanted say, without marks of the template: what its turns
  /// add behind the prompt for an answer, the end of the turn included, the white space behind it not.
  Spans said(const std::string& text, const Json& messages, const Json& row,
             const std::function<bool(size_t)>& is_wanted) const {
    Spans spans;
    if (messages.size() > kMostMessagesUnmarked && loss_on() != "last") {
      throw Error(ErrorCode::kData, "",
                  fmt::format("a conversation of {} messages; above {} the chat template must mark what the "
                              "assistant says",
                              messages.size(), kMostMessagesUnmarked),
                  "data.chat.loss_on: last or all, or a template that marks it with {% generation %}");
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].value("role", "") != "assistant" || !is_wanted(i)) continue;
      Json before(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(i)), with = before;
      with.push_back(messages[i]);
      const std::string prompt = render(before, row, true).text, turn = render(with, row, false).text;
      const std::string content = first_text(messages[i].value("content", Json()));
      const auto begin = static_cast<size_t>(
          std::mismatch(prompt.begin(), prompt.end(), turn.begin(), turn.end()).first - prompt.begin());
      // Some templates write more white space before an answer that is still to come.
      const bool is_prompt =
          begin == prompt.size() || (is_white_space(prompt.substr(begin)) && !content.empty() &&
                                     turn.compare(begin, content.size(), content) == 0);
      if (!text.starts_with(turn) || !is_prompt) {
        throw Error(
            ErrorCode::kData, "",
            fmt::format(
                "the chat template writes messages[{}] otherwise within a longer conversation, so that "
                "it cannot be told what the assistant says there",
                i),
            "data.chat.loss_on: last or all, or a template that marks it with {% generation %}");
      }
      size_t end = turn.size();
      while (end > begin + content.size() && is_white_space(turn.substr(end - 1, 1))) --end;
      spans.emplace_back(begin, end);
    }
    return spans;
  }

  Written of_message_completion(const Json& row) const {
    Json given = row["prompt"];
    for (const Json& one : row["completion"]) given.push_back(one);
    check_roles(given);
    const Json messages = fitted_messages(given, *how_.chat_template);
    RenderedText rendered = render(messages, row, false);
    const bool is_answered = row["completion"][0].value("role", "") == "assistant";
    Written written{std::move(rendered.text), {}, true, {}};
    written.learned = {{0, written.text.size()}};
    if (loss_on() != "all")
      written.given = render(fitted_messages(row["prompt"], *how_.chat_template), row, is_answered).text;
    if (loss_on() == "assistant" || loss_on() == "last")
      written.learned = answers(written.text, rendered.generated, given, messages, row);
    leave_out_weightless(written, rendered.generated, given, messages, row);
    return written;
  }

  /// Behind a text stands the end token, unless it ends with it.
  std::string ended(const std::string& text) const { return text.ends_with(end_) ? text : text + end_; }

  Written of_text(const std::string& text) const {
    const std::string whole = ended(text);
    return {whole, {{0, whole.size()}}, false, {}};
  }

  Written of_completion(const std::string& prompt, const std::string& completion) const {
    const std::string whole = prompt + ended(completion);
    Written written{whole, {{0, whole.size()}}, false, {}};
    if (loss_on() != "all") written.given = prompt;
    return written;
  }

  const ConversationEncoding& how_;
  const Dataset& rows_;
  std::string end_;
};

/// Tokens from `first` on that overlap the bytes that are learned, as runs. Both stand in the order of the
/// text.
std::vector<TokenSpan> learned_tokens(const Encoding& encoding, const Spans& learned, size_t first) {
  std::vector<TokenSpan> tokens;
  auto span = learned.begin();
  for (size_t i = first; i < encoding.ids.size(); ++i) {
    const TextSpan& at = encoding.offsets[i];
    while (span != learned.end() && span->second <= at.begin) ++span;
    if (span == learned.end() || at.end <= span->first) continue;
    const auto place = static_cast<int32_t>(i);
    if (!tokens.empty() && tokens.back().end == place) {
      ++tokens.back().end;
    } else {
      tokens.push_back({place, place + 1});
    }
  }
  return tokens;
}

/// Keeps `length` tokens from `begin` on.
void cut(TokenizedExample& example, size_t begin, size_t length) {
  example.ids = {example.ids.begin() + static_cast<std::ptrdiff_t>(begin),
                 example.ids.begin() + static_cast<std::ptrdiff_t>(begin + length)};
  const auto shift = static_cast<int32_t>(begin), end = static_cast<int32_t>(length);
  std::vector<TokenSpan> kept;
  for (const TokenSpan& span : example.predicted) {
    const TokenSpan moved{std::max(span.begin - shift, 0), std::min(span.end - shift, end)};
    if (moved.begin < moved.end) kept.push_back(moved);
  }
  example.predicted = std::move(kept);
}

/// Whether a token is learned: the first of an example has none before it.
bool learns(const TokenizedExample& example) {
  return std::any_of(example.predicted.begin(), example.predicted.end(),
                     [](const TokenSpan& span) { return span.end > std::max(span.begin, 1); });
}

/// Cuts what does not fit, or makes the row go, as one of which nothing is learned goes. Whether it stays.
bool fit(TokenizedExample& example, const ConversationEncoding& how, EncodeSummary& summary) {
  const auto longest = static_cast<size_t>(how.max_length);
  const size_t over = longest == 0 || example.ids.size() <= longest ? 0 : example.ids.size() - longest;
  if (over > 0 && how.options.too_long == "drop") {
    ++summary.rows_too_long;
    return false;
  }
  if (over > 0) cut(example, how.options.too_long == "cut_start" ? over : 0, longest);
  if (!learns(example)) {
    ++summary.rows_without_loss;
    return false;
  }
  if (over > 0) ++summary.truncated_examples;
  summary.dropped_tokens += static_cast<int64_t>(over);
  return true;
}

bool learns_special_token(const TokenizedExample& example, const Tokenizer& tokenizer) {
  return std::any_of(example.predicted.begin(), example.predicted.end(), [&](const TokenSpan& span) {
    return std::any_of(example.ids.begin() + span.begin, example.ids.begin() + span.end,
                       [&](int32_t id) { return tokenizer.is_special(id); });
  });
}

/// The encodings of texts with the tokenizer's special tokens, or without where the template wrote them.
std::vector<Encoding> encoded(const std::vector<const std::string*>& texts,
                              const std::vector<bool>& has_special_tokens, const Tokenizer& tokenizer,
                              int threads) {
  std::vector<Encoding> encodings(texts.size());
  for (const bool has_them : {false, true}) {
    std::vector<TextPair> chosen;
    std::vector<size_t> places;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (has_special_tokens[i] != has_them) continue;
      chosen.push_back({*texts[i], {}});
      places.push_back(i);
    }
    EncodeOptions options;
    options.offsets = OffsetUnit::kBytes;
    options.add_special_tokens = !has_them;
    std::vector<Encoding> some = tokenizer.encode_batch(chosen, options, threads);
    for (size_t i = 0; i < places.size(); ++i) encodings[places[i]] = std::move(some[i]);
  }
  return encodings;
}

/// Encoded rows, with the tokens that are learned.
struct EncodedRows {
  std::vector<Encoding> encodings;
  std::vector<std::vector<TokenSpan>> learned;
};

/// A token that the prompt alone does not begin with would not be given to the model, so it is learned: one
/// that reaches across the border, and those before it that are others when the text goes on.
EncodedRows encoded(const std::vector<Written>& rows, const Tokenizer& tokenizer, int threads) {
  std::vector<const std::string*> texts;
  std::vector<bool> has_special_tokens;
  for (const Written& row : rows) {
    texts.push_back(&row.text);
    has_special_tokens.push_back(row.has_special_tokens);
  }
  for (const Written& row : rows) {
    if (!row.given) continue;
    texts.push_back(&*row.given);
    has_special_tokens.push_back(row.has_special_tokens);
  }
  EncodedRows result{encoded(texts, has_special_tokens, tokenizer, threads), {}};
  size_t next = rows.size();
  for (size_t i = 0; i < rows.size(); ++i) {
    size_t first = 0;
    if (rows[i].given) {
      const std::vector<int32_t>&ids = result.encodings[i].ids, &given = result.encodings[next++].ids;
      first = static_cast<size_t>(std::mismatch(ids.begin(), ids.end(), given.begin(), given.end()).first -
                                  ids.begin());
    }
    result.learned.push_back(learned_tokens(result.encodings[i], rows[i].learned, first));
  }
  result.encodings.resize(rows.size());
  return result;
}

}  // namespace

EncodedDataset encode_conversations(const Dataset& rows, const ConversationEncoding& how, int threads) {
  EncodedDataset result;
  bool teaches_end = false;
  const Writer writer(how, rows);
  const std::optional<int32_t> unknown = countable_unknown(*how.tokenizer);
  if (unknown) result.summary.unknown.token = how.tokenizer->id_to_token(*unknown);
  for (size_t begin = 0; begin < rows.size(); begin += kRowsAtOnce) {
    std::vector<Written> texts;
    for (size_t i = begin; i < std::min(begin + kRowsAtOnce, rows.size()); ++i)
      texts.push_back(writer.write(i));
    EncodedRows encodings = encoded(texts, *how.tokenizer, threads);
    for (size_t k = 0; k < texts.size(); ++k) {
      Encoding& encoding = encodings.encodings[k];
      TokenizedExample example;
      example.predicted = std::move(encodings.learned[k]);
      result.summary.unknown.of += static_cast<int64_t>(encoding.ids.size());
      if (unknown)
        result.summary.unknown.count += std::count(encoding.ids.begin(), encoding.ids.end(), *unknown);
      example.ids = std::move(encoding.ids);
      teaches_end = teaches_end || learns_special_token(example, *how.tokenizer);
      if (!fit(example, how, result.summary)) continue;
      result.summary.add(static_cast<int64_t>(example.ids.size()));
      result.rows.push_back(static_cast<uint32_t>(begin + k));
      result.examples.push_back(std::move(example));
    }
  }
  if (result.examples.empty()) {
    throw Error(
        ErrorCode::kData, rows.path().string(),
        fmt::format(
            "nothing is learned of its {} rows: {} are too long, {} hold no answer or were cut before it",
            rows.size(), result.summary.rows_too_long, result.summary.rows_without_loss),
        "data.max_length, data.chat.too_long and data.chat.loss_on decide");
  }
  result.summary.teaches_no_end = !teaches_end;
  return result;
}

}  // namespace msplora
