// Ids and masks of conversations, and training examples, as transformers and TRL make them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/data/encode_conversations.h"
#include "msplora/templates/chat_template.h"
#include "tokenizers/sentencepiece_file.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Names = std::map<std::string, std::string>;

/// The tokenizer that transformers makes of Llama's tokenizer.model, with the normaliser of the published
/// one: its merges are the pairs of pieces that make a piece, in the order of ids. Runs of spaces are read
/// otherwise than SentencePiece reads them.
nlohmann::json llama_tokenizer(const fs::path& file) {
  const detail::SentencePieceFile model = detail::parse_sentencepiece(read_file(file), file);
  using Json = nlohmann::json;  // of very many keys, in no order
  Json vocabulary = Json::object(), merges = Json::array(), added = Json::array();
  std::map<std::string, bool> is_normal;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    is_normal[piece.text] = piece.type == detail::SentencePieceFile::Type::kNormal;
    vocabulary[piece.text] = i;
  }
  for (const auto& piece : model.pieces) {
    if (!is_normal[piece.text]) continue;
    for (size_t at = 1; at < piece.text.size(); ++at) {
      if ((piece.text[at] & 0xC0) == 0x80) continue;
      const auto left = is_normal.find(piece.text.substr(0, at)),
                 right = is_normal.find(piece.text.substr(at));
      if (left != is_normal.end() && right != is_normal.end() && left->second && right->second)
        merges.push_back(left->first + " " + right->first);
    }
  }
  for (size_t i = 0; i < 3; ++i) {
    added.push_back({{"id", i},
                     {"content", model.pieces[i].text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const Json prefix = {{"type", "Prepend"}, {"prepend", "\u2581"}};
  const Json escape = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", Json::array({prefix, escape})}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", nullptr},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

class GoldenChatIds : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = golden_group("chat");
    if (folder_.empty() || !fs::exists(folder_ / "ids.jsonl")) GTEST_SKIP() << "no cases";
    inputs_ = Json::parse(read_file(folder_ / "inputs" / "tokenizers.json"));
    templates_ = Json::parse(read_file(folder_ / "inputs" / "templates.json"));
    own_ = fs::path(::testing::TempDir()) / ("msplora-chat-" + std::to_string(::getpid()));
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(own_, ignored);
  }

  /// With these special tokens by role. Null where its file is not there, or no xz to unpack it.
  std::shared_ptr<const Tokenizer> tokenizer(const std::string& name, const Json& special_tokens) {
    const std::string key = name + special_tokens.dump();
    if (const auto found = tokenizers_.find(key); found != tokenizers_.end()) return found->second;
    const Json& spec = inputs_[name];
    const fs::path file = fs::weakly_canonical(folder_ / "inputs" / spec["file"].get<std::string>());
    if (!fs::exists(file)) return nullptr;
    const fs::path directory = own_ / std::to_string(tokenizers_.size());
    fs::create_directories(directory);
    Json config = special_tokens;
    if (file.extension() == ".xz") {
      const std::string unpack =
          "xz -dc '" + file.string() + "' > '" + (directory / "tokenizer.json").string() + "'";
      if (std::system(unpack.c_str()) != 0) return nullptr;
    } else if (file.extension() == ".model") {
      write_file_atomically(directory / "tokenizer.json", llama_tokenizer(file).dump());
    } else {
      nlohmann::json json = nlohmann::json::parse(read_file(file));
      int64_t next = 50257;
      for (const auto& token : spec.value("added_tokens", Json::array())) {
        json.at("added_tokens")
            .push_back({{"id", next++},
                        {"content", token.get<std::string>()},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", true}});
      }
      write_file_atomically(directory / "tokenizer.json", json.dump());
    }
    write_file_atomically(directory / "tokenizer_config.json", config.dump());
    return tokenizers_[key] = Tokenizer::load(directory);
  }

  ChatTemplate chat_template(const std::string& name, const Json& special_tokens) const {
    return ChatTemplate(templates_[name]["template"], special_tokens.get<Names>(), name);
  }

  fs::path folder_, own_;
  Json inputs_, templates_;
  static inline std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers_;
};

TEST_F(GoldenChatIds, OfConversations) {
  const Json special_tokens = Json::parse(read_file(folder_ / "special_tokens.json"));
  std::map<std::string, Json> conversations;
  for (const Json& one : Json::parse(read_file(folder_ / "inputs" / "conversations.json")))
    conversations[one["name"]] = one;
  for (const Json& row : read_rows<Json>(folder_ / "ids.jsonl")) {
    const std::string name = row["tokenizer"], by = row["template"];
    SCOPED_TRACE(name + ", " + by + ", " + row["conversation"].get<std::string>());
    const auto with = tokenizer(name, inputs_[name].value("special_tokens", Json::object()));
    if (with == nullptr) {
      GoldenCounts::skipped("chat", "the tokenizer " + name, 1);
      continue;
    }
    const Json& conversation = conversations.at(row["conversation"]);
    ChatOptions options;
    options.add_generation_prompt = row["add_generation_prompt"];
    if (conversation.contains("tools")) options.tools = conversation["tools"];
    const RenderedText rendered =
        chat_template(by, special_tokens[name + "/" + by]).render(conversation["messages"], options);
    EncodeOptions encode;
    encode.add_special_tokens = false;
    encode.offsets = OffsetUnit::kBytes;
    const Encoding encoding = with->encode({rendered.text, {}}, encode);
    EXPECT_EQ(encoding.ids, row["ids"].get<std::vector<int32_t>>());
    if (row.contains("assistant_mask")) {
      std::vector<int> mask;
      for (const TextSpan& at : encoding.offsets) {
        mask.push_back(
            std::any_of(rendered.generated.begin(), rendered.generated.end(),
                        [&](const auto& span) { return at.begin < span.second && at.end > span.first; }));
      }
      EXPECT_EQ(mask, row["assistant_mask"].get<std::vector<int>>());
    }
    GoldenCounts::compared("chat");
  }
}

/// TRL's arguments as our options.
ChatDataOptions options_of(const Json& row) {
  ChatDataOptions options;
  const Json& args = row["args"];
  const bool has_messages = row["rows"][0].contains("messages") || row["rows"][0].contains("conversations");
  if (args.value("assistant_only_loss", false)) {
    options.loss_on = "assistant";
  } else if (has_messages || !args.value("completion_only_loss", true)) {
    options.loss_on = "all";
  }
  if (args.value("truncation_mode", "") == "keep_end") options.too_long = "cut_start";
  return options;
}

TEST_F(GoldenChatIds, OfTrainingExamples) {
  for (const Json& row : read_rows<Json>(folder_ / "sft.jsonl")) {
    const std::string name = row["tokenizer"];
    SCOPED_TRACE(row["name"].get<std::string>());
    const auto with =
        tokenizer(name, row.value("special_tokens", inputs_[name].value("special_tokens", Json::object())));
    if (with == nullptr) {
      GoldenCounts::skipped("chat", "the tokenizer " + name, 1);
      continue;
    }
    std::string lines;
    for (const Json& one : row["rows"]) lines += one.dump() + "\n";
    fs::create_directories(own_);
    const fs::path file = own_ / "rows.jsonl";
    write_file_atomically(file, lines);
    ConversationEncoding how;
    how.tokenizer = with.get();
    how.options = options_of(row);
    how.max_length = row["args"].value("max_length", 0);
    std::optional<ChatTemplate> chat;
    if (row.contains("template"))
      chat.emplace(chat_template(
          row["template"],
          row.value("special_tokens", templates_[row["template"].get<std::string>()].at("special_tokens"))));
    how.chat_template = chat ? &*chat : nullptr;
    const auto encode = [&] {
      return encode_conversations(read_conversations(file, how.options, /*alpaca_as_messages=*/false), how)
          .examples;
    };
    if (row.contains("error")) {
      // Here it is found out what the assistant says without marks, and rows without an answer are left out.
      const size_t left_out = row["name"] == "no-answer-is-an-error" ? 1 : 0;
      EXPECT_EQ(encode().size(), row["rows"].size() - left_out);
      GoldenCounts::skipped("chat", "refused by TRL, encoded here", 1);
      continue;
    }
    const std::vector<TokenizedExample> examples = encode();
    // A row whose first token alone has a label teaches nothing, and is left out here.
    std::vector<Json> expected;
    for (const Json& one : row["expected"]) {
      const auto labels = one.at("labels").get<std::vector<int>>();
      if (std::any_of(labels.begin() + 1, labels.end(), [](int label) { return label != -100; }))
        expected.push_back(one);
    }
    ASSERT_EQ(examples.size(), expected.size());
    for (size_t i = 0; i < examples.size(); ++i) {
      const TokenizedExample& example = examples[i];
      EXPECT_EQ(example.ids, expected[i]["input_ids"].get<std::vector<int32_t>>()) << i;
      std::vector<int> labels(example.ids.size(), -100),
          wanted = expected[i]["labels"].get<std::vector<int>>();
      for (const TokenSpan& span : example.predicted) {
        for (int32_t t = span.begin; t < span.end; ++t)
          labels[static_cast<size_t>(t)] = example.ids[static_cast<size_t>(t)];
      }
      labels[0] = wanted[0] = -100;  // the first token has none before it
      EXPECT_EQ(labels, wanted) << i;
    }
    GoldenCounts::compared("chat");
  }
}

}  // namespace
}  // namespace msplora
