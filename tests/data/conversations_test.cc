// Instruction data in every layout, and what is wrong with them.
#include "msplora/data/conversations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/data/encode_conversations.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

class ConversationsTest : public ::testing::Test {
 protected:
  ~ConversationsTest() override {
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
  }

  Dataset read(const std::string& name, const std::string& content, bool as_messages = true) const {
    fs::create_directories(directory_);
    write_file_atomically(directory_ / name, content);
    return read_conversations(directory_ / name, options_, as_messages);
  }
  Json first(const std::string& name, const std::string& content, bool as_messages = true) const {
    return Json::parse(read(name, content, as_messages)[0].text);
  }
  std::string message(const std::string& name, const std::string& content) const {
    try {
      read(name, content);
    } catch (const Error& error) {
      return error.what();
    }
    return "read";
  }

  ChatDataOptions options_;
  fs::path directory_ =
      fs::path(::testing::TempDir()) / ("msplora-conversations-" + std::to_string(::getpid()));
};

const Json kQuestion = {{"role", "user"}, {"content", "q"}},
           kAnswer = {{"role", "assistant"}, {"content", "a"}};

TEST_F(ConversationsTest, CallsOfToolsNeedNoContentAndToolsMayBeAText) {
  const Json calls = {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", Json::array()}},
             answer = {{"role", "tool"}, {"content", {{"t", 3}}}};
  const Json given = {{"messages", {kQuestion, calls, answer}}, {"tools", R"([{"name": "f"}])"}};
  const Json row = first("a.jsonl", given.dump());
  EXPECT_EQ(row["tools"], Json::parse(R"([{"name": "f"}])"));
  EXPECT_EQ(row["messages"].size(), 3u);
}

// A list of two texts as xz packs it, which `first` and `message` write as it is.
TEST_F(ConversationsTest, PackedRowsAreReadByTheFormThatTheirNameHasBelow) {
  using namespace std::string_literals;
  const std::string packed =
      "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\xe0"
      "\x00\x1f\x00\x1c\x5d\x00\x2d\x9e\xc0\x47\x43\x64\x94\x7f\x16\x30\x34\xd5\x96\xe0\xed\xf3\x79\x3d\x38"
      "\x59\x42\x20\x9a\x3e\xd6\xaa\x64\x00\x00\x10\xe2\x12\x34\x33\xfb\xa5\x01\x00\x01\x38\x20\x18\x29\x77"
      "\x0c\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a"s;
  EXPECT_EQ(read("rows.json.xz", packed).size(), 2U);
  EXPECT_EQ(first("rows.json.xz", packed), Json({{"text", "a"}}));
  EXPECT_THAT(message("rows.json.xz", packed.substr(0, 60)),
              HasSubstr("rows.json.xz: the xz data end too early"));
}

TEST_F(ConversationsTest, EveryLayoutIsRecognised) {
  const Json turn = {{"messages", {kQuestion, kAnswer}}};
  EXPECT_EQ(
      first("a.jsonl",
            R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})"),
      turn);
  EXPECT_EQ(first("a.jsonl",
                  R"({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})"),
            turn);
  EXPECT_EQ(first("a.jsonl", R"({"instruction": "q", "input": "", "output": "a"})"), turn);
  EXPECT_EQ(
      first("a.jsonl", R"({"instruction": "q", "input": "i", "output": "a"})")["messages"][0]["content"],
      "q\ni");
  // Either way of naming who says what, under either key.
  EXPECT_EQ(first("a.jsonl", Json({{"conversations", turn["messages"]}}).dump()), turn);
  EXPECT_EQ(
      first("a.jsonl", R"({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})"),
      turn);
  const Json words = first("a.jsonl", R"({"instruction": "q", "input": "i", "output": "a"})", false);
  EXPECT_THAT(words["prompt"].get<std::string>(),
              HasSubstr("### Instruction:\nq\n\n### Input:\ni\n\n### Response:\n"));
  EXPECT_EQ(words["completion"], "a");
  EXPECT_EQ(first("a.jsonl", R"({"prompt": "q", "completion": "a", "other": 3})"),
            (Json{{"prompt", "q"}, {"completion", "a"}}));
  EXPECT_EQ(first("a.jsonl", R"({"text": "t"})"), (Json{{"text", "t"}}));
  EXPECT_EQ(first("a.csv", "instruction,input,output\nq,,\"a\"\n"), turn);
  EXPECT_EQ(first("a.tsv", "prompt\tcompletion\nq\ta\n")["completion"], "a");
  EXPECT_EQ(first("a.txt", "one text\nanother\n"), (Json{{"text", "one text"}}));
  const Json tools =
      first("a.jsonl", R"({"messages": [{"role": "user", "content": "q"}], "tools": [{"z": 1, "a": 2}]})");
  EXPECT_EQ(tools["tools"].dump(), R"([{"z":1,"a":2}])");  // in their order
  EXPECT_EQ(
      first(
          "a.jsonl",
          R"({"system": "s", "conversations": [{"from": "user", "value": "q"}]})")["messages"][0]["content"],
      "s");
  EXPECT_EQ(first("a.jsonl", R"({"instruction": "q", "output": "a", "history": [["q0", "a0"]]})")["messages"]
                .size(),
            4u);
}

TEST_F(ConversationsTest, AListHasTheLinesOfItsRows) {
  const Dataset rows = read("a.json", "[\n {\"text\": \"a ] } \\\" [\"},\n\n {\"text\":\n \"b\"}\n]\n");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].line, 2);
  EXPECT_EQ(rows[1].line, 4);
  EXPECT_EQ(Json::parse(rows[0].text)["text"], "a ] } \" [");
  EXPECT_THAT(rows.notes().front(), HasSubstr("rows of text (recognised by text)"));
  EXPECT_THAT(message("a.json", "[{\"text\": \"a\"}, {\"text\": 3}]"),
              HasSubstr("a.json:1: `text`: expected a text, found 3"));
  EXPECT_THAT(message("a.json", "[{\"text\": \"a\"} {\"text\": \"b\"}]"), HasSubstr("expected JSON"));
  EXPECT_THAT(message("a.json", "[{\"text\": \"a\"}"), HasSubstr("the list has no end"));
}

TEST_F(ConversationsTest, WhatIsWrongIsSaid) {
  EXPECT_THAT(message("a.jsonl", "{\"text\": \"a\"}\n{\"messages\": []}\n"),
              HasSubstr("a.jsonl:2: expected text as in the rows before it; found messages"));
  EXPECT_THAT(message("a.jsonl", R"({"instruction": "q", "ouput": "a"})"),
              HasSubstr("did you mean `output`?"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": "q"})"), HasSubstr("expected a list of messages"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": [{"content": "q"}]})"),
              HasSubstr("messages[0]: expected `role` and `content`, found content"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": [{"role": "user", "text": "q"}]})"),
              HasSubstr("messages[0]: expected `role` and `content`, found role, text"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": [{"role": "user", "content": null}]})"),
              HasSubstr("found role, content with nothing as `content`"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": [{"role": "user", "content": 7}]})"),
              HasSubstr("messages[0].content: expected a text or a list of parts, found 7"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": []})"),
              HasSubstr("a.jsonl:1: `messages`: expected messages, found an empty list"));
  EXPECT_THAT(message("a.jsonl", R"({"conversations": []})"),
              HasSubstr("a.jsonl:1: `conversations`: expected messages, found an empty list"));
  EXPECT_THAT(message("a.jsonl", R"({"messages": null})"),
              HasSubstr("a.jsonl:1: `messages`: expected a list of messages, found null"));
  EXPECT_THAT(message("a.jsonl",
                      "{\"prompt\": \"q\", \"completion\": \"a\"}\n"
                      "{\"prompt\": null, \"completion\": \"a\"}\n"),
              HasSubstr("a.jsonl:2: `prompt`: expected texts or lists of messages, found null"));
  // Files of several layouts have nothing under the keys of the others.
  EXPECT_EQ(first("a.jsonl", R"({"messages": null, "text": "t"})"), (Json{{"text", "t"}}));
  for (const char* tools : {R"("weather")", R"(["weather"])", R"("[1]")", "{}"}) {
    EXPECT_THAT(message("a.jsonl", R"({"messages": [{"role": "user", "content": "q"}], "tools": )" +
                                       std::string(tools) + "}"),
                HasSubstr("`tools`: expected a list of objects, found "));
  }
  EXPECT_THAT(message("a.jsonl", "{\"text\": \"\\ud800\"}"),
              HasSubstr("a.jsonl:1: expected JSON, found a fault at byte 17: invalid string: surrogate"));
  EXPECT_THAT(message("a.jsonl", R"({"conversations": [{"from": "humn", "value": "q"}]})"),
              HasSubstr("did you mean `human`?"));
  EXPECT_THAT(message("a.jsonl", R"({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]})"),
              HasSubstr("both texts, or both lists"));
  EXPECT_THAT(message("a.jsonl", R"({"instruction": "q", "output": "a", "history": {"x": ["q", "a"]}})"),
              HasSubstr("`history`: expected a list of pairs"));
  EXPECT_THAT(message("a.jsonl", "[1, 2]"), HasSubstr("expected an object"));
  EXPECT_THAT(message("a.jsonl", "{\"text\": "),
              HasSubstr("a.jsonl:1: expected JSON, found an end at byte 9"));
  EXPECT_THAT(message("a.jsonl", "\n\n"), HasSubstr("holds no rows"));
  EXPECT_THAT(message("a.jsonl", std::string(5000, '[')), HasSubstr("levels deep"));
  EXPECT_THAT(message("a.jsonl", std::string("{\"text\": \"a\"}\0zzz", 17)),
              HasSubstr("zero byte at position 13"));
  EXPECT_THAT(message("a.jsonl", R"({"text": "a", "text": "b"})"), HasSubstr("`text` appears twice"));
  std::string keys = "{\"text\": \"a\"";
  for (int i = 0; i < 5000; ++i) keys += ", \"k" + std::to_string(i) + "\": 0";
  EXPECT_THAT(message("a.jsonl", keys + "}"), HasSubstr("more than 4096 keys"));
}

// Before anything else is done with it, in every form of file.
TEST_F(ConversationsTest, RowsOfManyMegabytesAreRefused) {
  const std::string text(kMostRowBytes + 1, 'a'), said = "a row of 4.0 MiB; rows have at most 4 MiB";
  EXPECT_THAT(message("a.txt", "b\n" + text + "\n"), HasSubstr("a.txt:2: " + said));
  EXPECT_THAT(message("a.csv", "prompt,completion\nq," + text + "\n"), HasSubstr("a.csv:2: " + said));
  EXPECT_THAT(message("a.jsonl", R"({"text": ")" + text + "\"}\n"), HasSubstr("a.jsonl:1: " + said));
  EXPECT_THAT(message("a.json", R"([{"text": "b"}, {"text": ")" + text + "\"}]"),
              HasSubstr("a.json:1: " + said));
  EXPECT_EQ(read("b.txt", text.substr(100) + "\n").size(), 1u);
  // All together are as long as they like, and a key as long as a row is not repeated.
  const std::string row = R"({"text": ")" + text.substr(100) + "\"}";
  EXPECT_EQ(read("b.json", "[" + row + ", " + row + "]").size(), 2u);
  EXPECT_LT(message("a.jsonl", "{\"" + text.substr(100) + "\": 0}\n").size(), 500u);
}

// The tokens of `xabc` are x, a, bc, those of `xab` x, ab: the model is given ab, never a.
TEST_F(ConversationsTest, TokensThatAPromptAloneDoesNotBeginWithAreLearned) {
  const Dataset rows = read("a.jsonl", R"({"prompt": "xab", "completion": "c"})");
  write_file_atomically(directory_ / "tokenizer.json", R"({"version": "1.0", "added_tokens": [
      {"id": 6, "content": "E", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
       "special": true}], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
      "model": {"type": "BPE", "vocab": {"x": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "ab": 5},
                "merges": ["b c", "a b"]}})");
  write_file_atomically(directory_ / "tokenizer_config.json", R"({"eos_token": "E"})");
  const auto tokenizer = Tokenizer::load(directory_);
  ConversationEncoding how;
  how.tokenizer = tokenizer.get();
  how.options.loss_on = "completion";
  const TokenizedExample example = encode_conversations(rows, how).examples.at(0);
  EXPECT_EQ(example.ids, (std::vector<int32_t>{0, 1, 4, 6}));
  ASSERT_EQ(example.predicted.size(), 1u);
  EXPECT_EQ(example.predicted[0].begin, 1);
  EXPECT_EQ(example.predicted[0].end, 4);
}

// Its answers cost two renderings each of all that stands before them, where nothing marks them.
TEST_F(ConversationsTest, VeryLongConversationsNeedATemplateThatMarksWhatIsSaid) {
  Json messages = Json::array();
  for (int i = 0; i < 501; ++i) messages.push_back(kQuestion), messages.push_back(kAnswer);
  const Dataset rows = read("a.jsonl", Json({{"messages", messages}}).dump());
  const ChatTemplate unmarked("{% for m in messages %}{{ m.role + m.content }}{% endfor %}");
  write_file_atomically(directory_ / "tokenizer.json",
                        R"({"version": "1.0", "added_tokens": [], "normalizer": null,
      "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": {"type": "BPE", "merges": [],
      "vocab": {"a": 0, "q": 1, "s": 2, "e": 3, "r": 4, "u": 5, "i": 6, "t": 7, "n": 8}}})");
  const auto tokenizer = Tokenizer::load(directory_);
  ConversationEncoding how;
  how.tokenizer = tokenizer.get();
  how.chat_template = &unmarked;
  EXPECT_THAT(error_text([&] { encode_conversations(rows, how); }),
              HasSubstr("a conversation of 1002 messages; above 1000 the chat template must mark"));
  how.options.loss_on = "last";
  EXPECT_EQ(encode_conversations(rows, how).examples.size(), 1u);
}

}  // namespace
}  // namespace msplora
