#include <iostream>

#include "msplora/core/option_io.h"
#include "msplora/federated/options.h"
#include "msplora/runs/compare.h"
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
`--set adapter.method=NAME` leaves out what the file says for its own method alone, and names it.
An empty default means that the key is unset; `key: null` unsets it.

`msplora validate RECIPE.yaml` checks a recipe with its model directory and data without training.
)";

constexpr const char* kData = R"(
### Labels and data in general

- **Classes** are the labels of the whole training file, sorted: by value when all are integers, else by bytes. `data.labels`
  (or `--labels`) lists them by hand, in the order of their indices. A file may then hold the indices in place of the names.
  Without such a list a number is a name like any other: a file of 0, 1, 2 is refused by a model whose classes have names.
- **Tasks without labels** (`causal_lm`, `masked_lm`) read `data.text` alone. `causal_lm` learns every token of a text from those
  before it, `masked_lm` masks 15 % of the tokens anew in each epoch; `data.label` and `data.labels` have no meaning there.
- Class names that a base model brings along are not used. If its head has another number of outputs, or is one for another
  task (question answering, tokens), a fresh head is drawn; `validate` and `train` say so.
- One label an example: more than one (multi-label) is not built. `a|b` is a class of its own, and noted where `a` and `b`
  occur elsewhere too.
- A validation part that is split off gets its share of every class, rounded, and leaves one example of each for training at least:
  classes without an example in it are named, and where no class has two examples nothing can be split off.
- Texts that also lie in the training data, equal texts with different labels, classes with few examples, names that differ in case or
  spaces alone or are the same number (`0`, `0.0`), a class for nearly every row, and a text column that is the label's are said.
- TSV has no quotes. Where a program put texts with quotes or line ends between quotes, as pandas does, `data.format: csv` with
  `data.delimiter: tab` reads them; texts that look so are counted and said.
- The files in `data.test` may have no labels, and are not scored then; some without labels are an error.
- Of pairs, either text may be empty; `[CLS] a [SEP] [SEP]` is what the model then sees. Empty ones are counted, on both sides.
  A base with one kind of segment (`type_vocab_size` 1) takes both texts into it.

### Metrics

| name | of | what |
|---|---|---|
| `accuracy` | classes | share of right predictions |
| `f1` | classes | with two classes that of the class with index 1, the second in the list of labels; with more, the mean over all classes that occur (macro) |
| `matthews` | classes | Matthews correlation, also for more than two classes |
| `pearson`, `spearman` | values | correlations; 0 where predictions or targets do not vary beyond rounding |
| `mse`, `mae` | values | mean squared and mean absolute error |
| `loss` | all | mean cross entropy (of language models: per token), or mean squared error |
| `perplexity` | tokens | exp(loss) of `causal_lm` and `masked_lm`; `masked_lm` has `accuracy` too |

`train.best_metric` takes one of them; unset, the first of a classification is `accuracy`, of a regression `pearson`, of a GLUE task
its own. With several validation files a name has the part in front (`validation_matched_accuracy`). `eval` and `metrics.json`
(`classes`) hold precision, recall, F1 and support of every class and the confusion matrix, whose rows are the true classes.
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
                      << options_to_markdown(describe(Recipe{})) << kData
                      << "\n## Pretraining: `msplora pretrain`\n"
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
