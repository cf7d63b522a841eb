// Contents in parts and messages of weight 0, as encoding sees them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "error_text.h"
#include "msplora/core/file.h"
#include "msplora/data/conversations.h"
#include "msplora/data/encode_conversations.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr const char* kTexts = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\n' }}{% endfor %}";
constexpr const char* kPrinting =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ '\n' }}{% endfor %}";
constexpr const char* kParts =
    "{% for m in messages %}{{ m.role[0] + ':' }}{% for p in m.content %}{% if p.type == 'text' %}"
    "{{ p.text }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}";
constexpr const char* kBoth =
    "{% for m in messages %}{{ m.role[0] + ':' }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{{ '\n' }}{% endfor %}";
constexpr const char* kMarked =
    "{% for m in messages %}{{ m.role[0] + ':' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content "
    "}}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}";

Json part(const std::string& text) {
  return {{"type", "text"}, {"text", text}};
}
Json message(const char* role, Json content) {
  return {{"role", role}, {"content", std::move(content)}};
}
Json weighted(const char* text, Json weight) {
  return {{"role", "assistant"}, {"content", text}, {"weight", std::move(weight)}};
}

class MessagePartsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(directory_);
    Json vocabulary = Json::object();
    for (const char c : std::string("abcdeqstuy:\n")) vocabulary[std::string(1, c)] = vocabulary.size();
    const Json file = {{"version", "1.0"},
                       {"added_tokens", Json::array()},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", nullptr},
                       {"post_processor", nullptr},
                       {"decoder", nullptr},
                       {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
    write_file_atomically(directory_ / "tokenizer.json", file.dump());
    tokenizer_ = Tokenizer::load(directory_);
  }
  ~MessagePartsTest() override {
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  EncodedDataset encode(const Json& row, const std::string& source, const std::string& loss_on) const {
    write_file_atomically(directory_ / "rows.jsonl", row.dump());
    const Dataset rows = read_conversations(directory_ / "rows.jsonl", {}, true);
    const ChatTemplate chat_template(source);
    ConversationEncoding how;
    how.tokenizer = tokenizer_.get();
    how.chat_template = &chat_template;
    how.options.loss_on = loss_on;
    return encode_conversations(rows, how);
  }
  /// The text with what is learned between brackets.
  std::string learned(const Json& row, const std::string& source,
                      const std::string& loss_on = "assistant") const {
    const TokenizedExample example = encode(row, source, loss_on).examples.at(0);
    std::string text;
    for (size_t i = 0; i < example.ids.size(); ++i) {
      const auto place = static_cast<int32_t>(i);
      for (const TokenSpan& span : example.predicted) text += span.begin == place ? "[" : "";
      text += tokenizer_->id_to_token(example.ids[i]);
      for (const TokenSpan& span : example.predicted) text += span.end == place + 1 ? "]" : "";
    }
    return text;
  }
  std::string refusal(const Json& row, const std::string& source = kTexts,
                      const std::string& loss_on = "assistant") const {
    return error_text([&] { encode(row, source, loss_on); });
  }

  fs::path directory_ = fs::path(::testing::TempDir()) / ("msplora-parts-" + std::to_string(::getpid()));
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(MessagePartsTest, TextsAndPartsSayTheSameWhateverTheTemplateWants) {
  const Json texts = {{"messages", {message("user", "ab"), message("assistant", "cd")}}};
  const Json parts = {
      {"messages",
       {message("user", Json::array({part("ab")})), message("assistant", Json::array({part("cd")}))}}};
  for (const char* source : {kTexts, kPrinting, kParts, kBoth}) {
    EXPECT_EQ(learned(texts, source), "u:ab\n[a:cd]\n") << source;
    EXPECT_EQ(learned(parts, source), "u:ab\n[a:cd]\n") << source;
  }
}

TEST_F(MessagePartsTest, SeveralPartsAreTheTemplatesAffairOrStandOnLines) {
  const Json row = {
      {"messages", {message("user", Json::array({part("ab"), part("q")})), message("assistant", "cd")}}};
  EXPECT_EQ(learned(row, kBoth), "u:abq\n[a:cd]\n");
  EXPECT_EQ(learned(row, kTexts), "u:ab\nq\n[a:cd]\n");
}

TEST_F(MessagePartsTest, OtherPartsAreRefusedByTheirKind) {
  const Json image = {{"type", "image_url"}, {"image_url", {{"url", "x"}}}};
  for (const char* source : {kTexts, kBoth}) {
    EXPECT_THAT(
        refusal({{"messages", {message("user", Json::array({part("a"), image}))}}}, source),
        HasSubstr("rows.jsonl:1: messages[0].content[1]: a part of the kind \"image_url\"; models read "
                  "parts of the kind \"text\" alone"));
  }
  EXPECT_THAT(refusal({{"messages", {message("user", Json::array({"a"}))}}}),
              HasSubstr(R"(messages[0].content[0]: expected {"type": "text", "text": "..."}, found "a")"));
  EXPECT_THAT(refusal({{"messages", {message("user", Json::array())}}}), HasSubstr("found []"));
  // What a tool answers may be any list.
  const Json answered = {{"messages", {message("tool", Json::array({1, 2})), message("assistant", "cd")}}};
  EXPECT_EQ(learned(answered,
                    "{% for m in messages %}{{ m.role[0] + ':' }}{% if m.role == 'tool' %}"
                    "{{ 'q' if m.content == [1, 2] else 's' }}{% else %}{{ m.content }}{% endif %}"
                    "{{ '\\n' }}{% endfor %}"),
            "t:q\n[a:cd]\n");
}

TEST_F(MessagePartsTest, AnswersOfWeightZeroAreNotLearned) {
  const Json row = {{"messages",
                     {message("user", "q"), weighted("a", 0), message("user", "s"), weighted("b", 1),
                      message("user", "t"), message("assistant", "c")}}};
  EXPECT_EQ(learned(row, kTexts), "u:q\na:a\nu:s\n[a:b]\nu:t\n[a:c]\n");
  EXPECT_EQ(learned(row, kMarked), "u:q\na:a\nu:s\na:[b]\nu:t\na:[c]\n");
  EXPECT_EQ(learned(row, kTexts, "all"), "[u:q\n]a:a[\nu:s\na:b\nu:t\na:c\n]");
  EXPECT_EQ(learned(row, kTexts, "last"), "u:q\na:a\nu:s\na:b\nu:t\n[a:c]\n");
  const Json turns = {{"conversations",
                       {{{"from", "human"}, {"value", "q"}},
                        {{"from", "gpt"}, {"value", "a"}, {"weight", 0}},
                        {{"from", "human"}, {"value", "s"}},
                        {{"from", "gpt"}, {"value", "b"}}}}};
  EXPECT_EQ(learned(turns, kMarked), "u:q\na:a\nu:s\na:[b]\n");
  const Json completion = {{"prompt", {message("user", "q")}},
                           {"completion", {weighted("a", 0), message("user", "s"), weighted("b", 1.0)}}};
  EXPECT_EQ(learned(completion, kMarked, "assistant"), "u:q\na:a\nu:s\na:[b]\n");
  EXPECT_EQ(learned(completion, kTexts, "completion"), "u:q\na:a[\nu:s\na:b\n]");
}

// Its marks are not one for each answer, so that where an answer stands is found without them.
TEST_F(MessagePartsTest, MarksThatAreNotOnePerAnswerAreTakenOutByWhereTheAnswerStands) {
  const Json row = {
      {"messages", {message("user", "q"), weighted("ab", 0), message("user", "s"), weighted("cd", 1)}}};
  EXPECT_EQ(learned(row,
                    "{% for m in messages %}{{ m.role[0] + ':' }}{% if m.role == 'assistant' %}"
                    "{% generation %}{{ m.content[0] }}{% endgeneration %}e{% generation %}"
                    "{{ m.content[1] }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
                    "{{ '\\n' }}{% endfor %}"),
            "u:q\na:aeb\nu:s\na:[c]e[d]\n");
}

TEST_F(MessagePartsTest, OtherWeightsAreRefused) {
  EXPECT_THAT(refusal({{"messages", {message("user", "q"), weighted("a", 0.5)}}}),
              HasSubstr("rows.jsonl:1: messages[1].weight: expected 0 or 1, found 0.5"));
  Json question = message("user", "q");
  question["weight"] = 1;
  EXPECT_THAT(
      refusal({{"messages", {question, weighted("a", 1)}}}),
      HasSubstr("messages[0].weight: expected 0 or 1, and 1 only of what the assistant says, found 1 of "
                "the role \"user\""));
  question["weight"] = 0;
  EXPECT_EQ(learned({{"messages", {question, weighted("a", 1)}}}, kMarked), "u:q\na:[a]\n");
  EXPECT_THAT(refusal({{"messages", {question, weighted("a", 1)}}}, kTexts, "all"),
              HasSubstr("messages[0].weight: what others than the assistant say"));
  EXPECT_THAT(refusal({{"messages", {message("user", "q"), weighted("a", 0)}}}),
              HasSubstr("nothing is learned of its 1 rows"));
}

}  // namespace
}  // namespace msplora
