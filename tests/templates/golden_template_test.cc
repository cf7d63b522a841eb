// Templates and conversations that jinja2 and transformers rendered.
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/templates/chat_template.h"
#include "msplora/templates/messages.h"
#include "msplora/templates/template.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// What strftime_now sees in the cases.
std::time_t their_time() {
  std::tm time = {};
  time.tm_year = 2026 - 1900, time.tm_mon = 2, time.tm_mday = 7;
  time.tm_hour = 9, time.tm_min = 5, time.tm_sec = 2;
  time.tm_isdst = -1;
  return std::mktime(&time);
}

/// Of the library's refusals only that of a template itself has words to be met.
void expect_error(const Json& wanted, const std::function<RenderedText()>& render) {
  try {
    const RenderedText rendered = render();
    ADD_FAILURE() << "expected " << wanted << ", rendered " << rendered.text;
  } catch (const Error& error) {
    if (wanted["type"] == "raise_exception") {
      EXPECT_EQ(error.message(), wanted["message"].get<std::string>());
    }
  }
}

TEST(GoldenChat, Probes) {
  const fs::path folder = golden_group("chat");
  if (folder.empty() || !fs::exists(folder / "jinja.jsonl")) GTEST_SKIP() << "no cases";
  for (const Json& row : read_rows<Json>(folder / "jinja.jsonl")) {
    SCOPED_TRACE(row["name"].get<std::string>());
    const auto render = [&row] { return Template(row["template"]).render(row["context"], their_time()); };
    if (row.contains("error")) {
      expect_error(row["error"], render);
    } else {
      try {
        EXPECT_EQ(render().text, row["expected"].get<std::string>());
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    }
    GoldenCounts::compared("chat");
  }
}

/// Offsets of characters as bytes.
size_t byte_of(const std::string& text, size_t character) {
  size_t byte = 0;
  for (; byte < text.size() && character > 0; --character) {
    do {
      ++byte;
    } while (byte < text.size() && (text[byte] & 0xC0) == 0x80);
  }
  return byte;
}

TEST(GoldenChat, Conversations) {
  const fs::path folder = golden_group("chat");
  if (folder.empty() || !fs::exists(folder / "rendered.jsonl")) GTEST_SKIP() << "no cases";
  const Json given = Json::parse(read_file(folder / "inputs" / "templates.json"));
  std::map<std::string, ChatTemplate> templates;
  for (const auto& [name, one] : given.items())
    templates.emplace(
        name,
        ChatTemplate(one["template"], one["special_tokens"].get<std::map<std::string, std::string>>(), name));
  std::map<std::string, Json> conversations;
  for (const Json& one : Json::parse(read_file(folder / "inputs" / "conversations.json")))
    conversations[one["name"]] = one;
  for (const Json& row : read_rows<Json>(folder / "rendered.jsonl")) {
    SCOPED_TRACE(row["template"].get<std::string>() + ", " + row["conversation"].get<std::string>() + ", " +
                 row["options"].dump());
    const Json& conversation = conversations.at(row["conversation"]);
    ChatOptions options;
    options.now = their_time();
    options.add_generation_prompt = row["options"].value("add_generation_prompt", false);
    options.continue_final_message = row["options"].value("continue_final_message", false);
    if (conversation.contains("tools")) options.tools = conversation["tools"];
    const auto render = [&] {
      return templates.at(row["template"]).render(conversation["messages"], options);
    };
    if (row.contains("error")) {
      expect_error(row["error"], render);
      GoldenCounts::compared("chat");
      continue;
    }
    try {
      const RenderedText rendered = render();
      EXPECT_EQ(rendered.text, row["text"].get<std::string>());
      std::vector<std::pair<size_t, size_t>> spans;
      if (row.contains("assistant_spans")) {
        for (const Json& span : row["assistant_spans"])
          spans.emplace_back(byte_of(rendered.text, span[0]), byte_of(rendered.text, span[1]));
        EXPECT_EQ(rendered.generated, spans);
      }
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
    GoldenCounts::compared("chat");
  }
}

/// The same conversation with every text as the one part of a list; null where not all contents are texts.
Json in_parts(const Json& messages) {
  Json parted = messages;
  for (Json& message : parted) {
    if (!message.value("content", Json()).is_string()) return nullptr;
    message["content"] = Json::array({{{"type", "text"}, {"text", message["content"]}}});
  }
  return parted;
}

// Whether a template takes lists (gemma3) or texts alone, as most do.
TEST(GoldenChat, PartsSayWhatTheirTextsSay) {
  const fs::path folder = golden_group("chat");
  if (folder.empty() || !fs::exists(folder / "rendered.jsonl")) GTEST_SKIP() << "no cases";
  const Json conversations = Json::parse(read_file(folder / "inputs" / "conversations.json"));
  ChatOptions options;
  options.now = their_time();
  size_t compared = 0;
  const Json given = Json::parse(read_file(folder / "inputs" / "templates.json"));
  for (const auto& [name, one] : given.items()) {
    const ChatTemplate chat_template(one["template"],
                                     one["special_tokens"].get<std::map<std::string, std::string>>(), name);
    for (const Json& conversation : conversations) {
      SCOPED_TRACE(name + ", " + conversation["name"].get<std::string>());
      const Json parted = in_parts(conversation["messages"]);
      std::string wanted;
      try {
        wanted = chat_template.render(conversation["messages"], options).text;
      } catch (const Error&) {
        continue;  // a template's own refusal
      }
      if (parted.is_null()) continue;
      EXPECT_EQ(chat_template.render(fitted_messages(parted, chat_template), options).text, wanted);
      EXPECT_EQ(chat_template.render(fitted_messages(conversation["messages"], chat_template), options).text,
                wanted);
      ++compared;
    }
  }
  EXPECT_GT(compared, 50U);
}

}  // namespace
}  // namespace msplora
