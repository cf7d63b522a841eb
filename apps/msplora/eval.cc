#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "class_report.h"
#include "data_arguments.h"
#include "msplora/core/progress.h"
#include "msplora/data/glue.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/runtime.h"
#include "program.h"
#include "session.h"

namespace msplora {
namespace {

struct EvalArguments {
  ModelArguments model;
  DataArguments data;
};

Dataset read_labelled(const std::string& file, const DataConfig& config, LabelKind labels) {
  if (config.glue_task) return read_glue_file(glue_task(*config.glue_task), file, /*labelled=*/true);
  Dataset data = read_table(file, table_spec(config, file, labels));
  say_delimiter(data);
  return data;
}

Evaluation evaluate_file(const std::string& file, const Session& session, const DataArguments& arguments) {
  const DataConfig config = merged_data_config(session.facts.data, arguments);
  const auto task = session.task(arguments.max_length, config.glue_task ? glue_task(*config.glue_task).metrics
                                                                        : std::vector<std::string>());
  const EncodedDataset encoded =
      task->encode(read_labelled(file, config, task_kind(session.facts.type).labels));
  if (encoded.summary.truncated_examples > 0) std::cerr << file << ": " << encoded.summary.text() << "\n";
  Progress progress(file, encoded.summary.examples);
  return Evaluator(*task, *session.model, all_of(encoded.examples), arguments.batch_tokens)
      .run([&](int64_t done, int64_t) { progress.update(done); });
}

void eval(const EvalArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const Session session = open_session(arguments.model, common);
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const std::string& file : arguments.data.files) {
    const Evaluation evaluation = evaluate_file(file, session, arguments.data);
    nlohmann::ordered_json result = {{"file", file}, {"examples", evaluation.examples}};
    for (const auto& [name, value] : evaluation.metrics) result["metrics"][name] = value;
    if (session.labels) result["classes"] = class_report(evaluation, session.labels->names());
    if (!evaluation.note.empty()) result["note"] = evaluation.note;
    result["seconds"] = evaluation.seconds;
    result["tokens_per_second"] =
        evaluation.seconds > 0 ? static_cast<double>(evaluation.tokens) / evaluation.seconds : 0.0;
    if (!common.json) {
      std::cout << fmt::format("{}: {}  ({} examples, {:.1f} s)\n", file, format_metrics(evaluation),
                               evaluation.examples, evaluation.seconds);
      if (session.labels) std::cout << class_report_text(evaluation, session.labels->names());
      if (!evaluation.note.empty()) std::cout << "  " << evaluation.note << "\n";
    }
    results.push_back(std::move(result));
  }
  if (common.json) {
    print_json(
        {{"model", arguments.model.model}, {"adapter", arguments.model.adapter}, {"results", results}});
  }
}

}  // namespace

Command add_eval(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("eval", "Score a model and its adapter on labelled files");
  auto arguments = std::make_shared<EvalArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/false);
  command->add_option("--data", arguments->data.files, "Labelled files")->required()->type_name("FILE...");
  command->add_option("--format", arguments->data.format, "Form of the files")
      ->check(CLI::IsMember({"auto", "tsv", "csv", "jsonl"}));
  add_data_arguments(*command, arguments->data, /*with_labels=*/true);
  add_common(*command, common);
  return {command, [arguments, &common] { eval(*arguments, common); }};
}

}  // namespace msplora
