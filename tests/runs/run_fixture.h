#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/runs/run.h"
#include "msplora/tokenizers/trainer.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {

/// Bases of a few layers with their tokenizer (`base`, an encoder, and `decoder`), and texts that say of
/// which class they are (`train.tsv`).
class RunFixture : public testing::Test {
 protected:
  void SetUp() override {
    std::vector<std::string> lines;
    std::string table = "text\tlabel\tscore\n";
    for (int i = 0; i < 48; ++i) {
      const bool is_good = i % 2 == 0;
      lines.push_back(std::string("the ") + kThings[i % 3] + " was " + (is_good ? kGood : kBad)[i % 3]);
      table += lines.back() + (is_good ? "\tgood\t" : "\tbad\t") + std::to_string(i % 5) + "\n";
    }
    write_file_atomically(path("train.tsv"), table);
    for (const bool is_decoder : {false, true})
      make_base(path(is_decoder ? "decoder" : "base"), lines, is_decoder);
  }

  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  Recipe recipe() const {
    Recipe recipe;
    recipe.model.path = path("base");
    recipe.data.train = path("train.tsv");
    recipe.data.validation_fraction = 0.25;
    recipe.data.test = path("train.tsv");
    recipe.adapter.rank = 2;
    recipe.adapter.levels = 2;
    recipe.train.max_steps = 4;
    recipe.train.batch_size = 8;
    recipe.train.threads = 1;
    recipe.output.dir = path("run");
    recipe.output.tensorboard = false;
    return recipe;
  }

  /// What a run in this directory has learned, byte for byte.
  std::string learned(const std::string& run) const {
    return read_file(path(run + "/adapter-native/adapter.safetensors"));
  }

 private:
  static void make_base(const std::filesystem::path& to, const std::vector<std::string>& lines,
                        bool is_decoder) {
    std::filesystem::create_directories(to);
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    write_file_atomically(to / "text.txt", text);
    WordPieceTrainerOptions options;
    options.vocab_size = 60;
    train_wordpiece(options, {to / "text.txt"}, to);
    const ModelConfig config = tiny_config(is_decoder ? "llama" : "bert", 0.0);
    ModelLoadOptions load;
    load.task = is_decoder ? ModelTask::kCausalLm : ModelTask::kMaskedLm;
    load.seed = 3;
    save_model(*create_model(config, load), to, at::kFloat);
  }

  static constexpr const char* kGood[] = {"fine", "lovely", "bright"};
  static constexpr const char* kBad[] = {"awful", "dull", "broken"};
  static constexpr const char* kThings[] = {"film", "meal", "walk"};
  TemporaryDirectory directory_;
};

}  // namespace msplora
