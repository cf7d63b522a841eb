#include <iostream>

#include "msplora/core/option_io.h"
#include "msplora/federated/options.h"
#include "msplora/train/compare.h"
#include "msplora/train/recipe.h"
#include "program.h"

namespace msplora {
namespace {

constexpr const char* kIntroduction =
    R"(# Keys of a recipe

Written by `msplora docs-config` from the declarations that read recipes; do not edit.

A recipe is a YAML file. Every key can be replaced on the command line with `--set`, which takes a YAML value:
`--set train.lr=3e-4 --set adapter.target_modules=[query,value]`. What counts is, from weakest to strongest: the default,
the file, `--set`, and options such as `--threads`. Unknown keys, wrong types and values out of range are errors, all
reported together with their lines. Relative paths are relative to the current directory.
An empty default means that the key is unset; `key: null` unsets it.

`msplora validate RECIPE.yaml` checks a recipe with its model directory and data without training.
)";

/// The keys that `federate` has beside those of `train`.
std::vector<OptionDoc> federated_keys() {
  std::vector<OptionDoc> docs = describe(FederateRecipe{});
  std::erase_if(docs, [](const OptionDoc& doc) { return !(doc.key + ".").starts_with("federated."); });
  return docs;
}

/// What a recipe of `compare` has besides the keys of `train`.
std::vector<OptionDoc> comparison_keys() {
  std::vector<OptionDoc> keys = describe(CompareRecipe{});
  keys.erase(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(describe(Recipe{}).size()));
  return keys;
}

}  // namespace

Command add_docs(CLI::App& program, CommonOptions&) {
  CLI::App* command = program.add_subcommand("docs-config", "Write docs/config.md to standard output");
  command->group("");  // not listed in --help
  return {command, [] {
            std::cout << kIntroduction << "\n## Fine-tuning: `msplora train`\n"
                      << options_to_markdown(describe(Recipe{})) << "\n## Pretraining: `msplora pretrain`\n"
                      << options_to_markdown(describe(PretrainRecipe{}))
                      << "\n## Federated fine-tuning: `msplora federate`\n\n"
                         "The keys of fine-tuning, where `train` is the work of one client in one round "
                         "([federated.md](federated.md)), and these:\n"
                      << options_to_markdown(federated_keys())
                      << "\n## Comparing: `msplora compare`\n\nThe keys of `msplora train`, and:\n"
                      << options_to_markdown(comparison_keys());
          }};
}

}  // namespace msplora
