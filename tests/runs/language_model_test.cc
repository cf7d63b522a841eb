// Causal language models with adapters that take turns, and what the files beside them say of generation.
#include <ATen/ops/randn_like.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "decoding/word_tokenizer.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/runs/language_model.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

class LanguageModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    options.seed = 3;
    const auto model = create_model(tiny_config("llama", 0.0), options);
    save_model(*model, base(), at::kFloat);
    write_word_tokenizer(base(), 60);
    const auto save = [&](const std::string& name, const std::string& method, uint64_t seed,
                          const std::vector<std::string>& whole) {
      AdapterConfig config;
      config.method = method;
      config.modules_to_save = whole;
      const auto adapter = create_adapter(config, target_of(*model, "base"), seed);
      const c10::NoGradGuard no_grad;
      for (const TrainableTensor& one : adapter->trainable()) {
        const at::Tensor tensor = one.tensor;
        tensor.add_(at::randn_like(tensor), 0.3);
      }
      save_peft_adapter(*adapter, directory_.path() / name);
    };
    save("one", "msplora", 1, {});
    save("two", "lora", 2, {});
    save("head", "lora", 3, {"embed_tokens"});
    save("other-head", "msplora", 4, {"embed_tokens", "norm"});
    save("norm", "lora", 5, {"norm"});
  }

  fs::path base() const { return directory_.path() / "base"; }
  fs::path adapter(const std::string& name) const { return directory_.path() / name; }

  static std::vector<int32_t> text(LanguageModel& model) {
    GenerationRequest request;
    request.prompt = "w5 w9 w30";
    request.options.max_new_tokens = 20;
    return model.generate(request).tokens;
  }
  GenerationOptions defaults(const std::string& generation_config) const {
    write_file_atomically(base() / "generation_config.json", generation_config);
    return LanguageModel::open(base()).defaults();
  }

  TemporaryDirectory directory_;
};

TEST_F(LanguageModelTest, AdaptersTakeTurns) {
  LanguageModel plain = LanguageModel::open(base());
  LanguageModel with_one = LanguageModel::open(base(), {.adapters = {{"x", adapter("one")}}});
  LanguageModel with_two = LanguageModel::open(base(), {.adapters = {{"x", adapter("two")}}});
  EXPECT_EQ(with_one.adapter(), "x");
  LanguageModel both =
      LanguageModel::open(base(), {.adapters = {{"one", adapter("one")}, {"two", adapter("two")}},
                                   .generator = {.max_batch = 4, .prefill_tokens = 8, .keeps_last = true}});
  const auto of_base = text(plain), of_one = text(with_one), of_two = text(with_two);
  EXPECT_NE(of_base, of_one);
  EXPECT_NE(of_base, of_two);
  EXPECT_NE(of_one, of_two);
  EXPECT_EQ(text(both), of_base);
  both.use("one");
  EXPECT_EQ(text(both), of_one);
  both.use("two");
  EXPECT_EQ(text(both), of_two);
  both.use("");
  EXPECT_EQ(text(both), of_base);
  try {
    both.use("tow");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("did you mean `two`"));
  }
}

// Each with the modules that it has trained whole (the table of words is the output layer, too), as it writes
// alone; and the base stays what it was.
TEST_F(LanguageModelTest, AdaptersWithHeadsTakeTurns) {
  LanguageModel plain = LanguageModel::open(base());
  const auto of_base = text(plain);
  LanguageModelOptions options;
  std::map<std::string, std::vector<int32_t>> alone;
  for (const std::string name : {"head", "one", "other-head", "norm"}) {
    LanguageModel one = LanguageModel::open(base(), {.adapters = {{name, adapter(name)}}});
    alone[name] = text(one);
    EXPECT_NE(alone[name], of_base) << name;
    options.adapters[name] = adapter(name);
  }
  EXPECT_NE(alone["head"], alone["other-head"]);
  LanguageModel all = LanguageModel::open(base(), options);
  EXPECT_EQ(text(all), of_base);
  for (const std::string name : {"head", "other-head", "one", "norm", "head", "", "other-head", "one"}) {
    all.use(name);
    EXPECT_EQ(text(all), name.empty() ? of_base : alone[name]) << name;
  }
}

TEST_F(LanguageModelTest, AMergedAdapterWritesTheSame) {
  LanguageModel adapted = LanguageModel::open(base(), {.adapters = {{"one", adapter("one")}}});
  LanguageModel merged = LanguageModel::open(base(), {.adapters = {{"one", adapter("one")}}, .merge = true});
  EXPECT_EQ(text(merged), text(adapted));
  EXPECT_THROW(merged.use(""), Error);
  EXPECT_THROW(LanguageModel::open(base(), {.merge = true}), Error);
}

// What an adapter learned to answer is written as it was then, not as the base's files have it.
TEST_F(LanguageModelTest, ConversationsAreThoseThatTheAdapterWasTrainedOn) {
  write_file_atomically(base() / "chat_template.jinja",
                        "{% for m in messages %}w1 {{ m.content }}{% endfor %}");
  write_file_atomically(directory_.path() / "mine.jinja",
                        "{% for m in messages %}w2 {{ m.content }}{% endfor %}");
  TaskFacts facts;
  facts.type = "sft";
  facts.data.chat.chat_template = (directory_.path() / "mine.jinja").string();
  save_task_facts(facts, adapter("one"));
  LanguageModel both =
      LanguageModel::open(base(), {.adapters = {{"one", adapter("one")}, {"two", adapter("two")}}});
  const auto written = [&](const std::string& name) {
    both.use(name);
    return both.request_for({{{"role", "user"}, {"content", "w7"}}}).prompt;
  };
  EXPECT_EQ(written(""), "w1 w7");
  EXPECT_EQ(written("one"), "w2 w7");
  EXPECT_EQ(written("two"), "w1 w7");
  both.use("one");
  fs::remove(directory_.path() / "mine.jinja");
  LanguageModel without = LanguageModel::open(base(), {.adapters = {{"one", adapter("one")}}});
  EXPECT_THROW(without.request_for({{{"role", "user"}, {"content", "w7"}}}), Error);
  without.use("");
  EXPECT_EQ(without.request_for({{{"role", "user"}, {"content", "w7"}}}).prompt, "w1 w7");
  write_file_atomically(directory_.path() / "other.jinja", "w3");
  both.set_chat_template((directory_.path() / "other.jinja").string());
  EXPECT_EQ(written(""), "w3");
}

TEST_F(LanguageModelTest, AModelThatDoesNotWriteIsRefused) {
  ModelLoadOptions options;
  const auto encoder = create_model(tiny_config("roberta", 0.0), options);
  save_model(*encoder, directory_.path() / "encoder", at::kFloat);
  write_word_tokenizer(directory_.path() / "encoder", 60);
  EXPECT_THROW(LanguageModel::open(directory_.path() / "encoder"), Error);
}

TEST_F(LanguageModelTest, ConversationsAreWrittenAsTheModelHasThem) {
  LanguageModel plain = LanguageModel::open(base());
  const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", "w5 w6"}}};
  EXPECT_EQ(plain.chat_template(), nullptr);
  EXPECT_THROW(plain.request_for(messages), Error);
  plain.set_chat_template("chatml");
  EXPECT_THAT(plain.request_for(messages).prompt, ::testing::EndsWith("<|im_start|>assistant\n"));
  write_file_atomically(base() / "tokenizer_config.json", R"({"bos_token": {"content": "w1"}, "chat_template":
      [{"name": "tool_use", "template": "no"}, {"name": "default", "template":
       "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}{{ ' w9' if add_generation_prompt }}"}]})");
  LanguageModel model = LanguageModel::open(base());
  const GenerationRequest request = model.request_for(messages);
  EXPECT_EQ(request.prompt, "w1 w5 w6 w9");
  EXPECT_EQ(request.prompt_ids, (std::vector<int32_t>{1, 5, 6, 9}));
  write_file_atomically(base() / "chat_template.jinja", "{{ messages[0].content }}");
  EXPECT_EQ(LanguageModel::open(base()).request_for(messages).prompt, "w5 w6");
  write_file_atomically(base() / "chat_template.jinja", "{{ messages[0].content");
  LanguageModel damaged = LanguageModel::open(base());
  EXPECT_THROW(damaged.request_for(messages), Error);
  EXPECT_EQ(text(damaged), text(plain));  // a text needs no template
}

TEST_F(LanguageModelTest, GenerationConfigGivesTheDefaults) {
  const GenerationOptions drawn = defaults(
      R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [7, 8],
          "transformers_version": "5", "early_stopping": true, "max_length": 20, "bad_words_ids": null})");
  EXPECT_TRUE(drawn.do_sample);
  EXPECT_EQ(drawn.temperature, 0.6);
  EXPECT_EQ(drawn.top_k, 20);
  EXPECT_EQ(drawn.early_stopping, "true");
  EXPECT_THAT(drawn.eos_token_id, ::testing::IsSupersetOf({7, 8}));
  // What is drawn with says nothing where nothing is drawn.
  EXPECT_EQ(defaults(R"({"temperature": 0.6, "top_k": 50, "eos_token_id": 7})").top_k, 0);
  EXPECT_THROW(defaults(R"({"temperature": "warm"})"), Error);
  EXPECT_THROW(defaults(R"({"do_sample": true, "top_p": 3})"), Error);
  EXPECT_THROW(defaults(R"({"eos_token_id": [7, "8"]})"), Error);
  EXPECT_THROW(defaults("[]"), Error);
}

TEST(OverrideGeneration, ImpliesWhatAUserMeans) {
  const auto overridden = [](const nlohmann::json& values, GenerationOptions options = {}) {
    ErrorList errors;
    override_generation(options, values, "given", errors);
    errors.throw_if_any("given");
    return options;
  };
  EXPECT_TRUE(overridden({{"temperature", 0.7}}).do_sample);
  EXPECT_FALSE(overridden({{"temperature", 0}}).do_sample);
  EXPECT_FALSE(overridden({{"max_new_tokens", 3}}).do_sample);
  GenerationOptions drawing;
  drawing.do_sample = true;
  drawing.top_k = 5;
  EXPECT_EQ(overridden({{"do_sample", false}}, drawing).top_k, 0);
  EXPECT_FALSE(overridden({{"num_beams", 4}}, drawing).do_sample);
  EXPECT_EQ(overridden({{"stop", "\n"}}).stop, std::vector<std::string>{"\n"});
  EXPECT_EQ(overridden({{"eos_token_id", 5}}).eos_token_id, std::vector<int64_t>{5});
  EXPECT_THROW(overridden({{"max_new_tokens", "many"}}), Error);
  EXPECT_THROW(overridden({{"max_new_tokens", 0}}), Error);
  EXPECT_THROW(overridden({{"max_new_token", 5}}), Error);
}

}  // namespace
}  // namespace msplora
