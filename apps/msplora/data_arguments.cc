#include "data_arguments.h"

#include "msplora/core/log.h"

namespace msplora {

void add_data_arguments(CLI::App& command, DataArguments& arguments, bool with_labels) {
  command.add_option("--text", arguments.text, "Column of the text: a name or a position from 0")
      ->type_name("COLUMN");
  command.add_option("--text-pair", arguments.text_pair, "Column of the second text")->type_name("COLUMN");
  if (with_labels) {
    command.add_option("--label", arguments.label, "Column of the label")->type_name("COLUMN");
    command.add_option("--glue-task", arguments.glue_task, "Read the files as the GLUE task lays them out")
        ->type_name("TASK");
  }
  command.add_option("--header", arguments.header, "Whether the first row names the columns")
      ->check(CLI::IsMember({"auto", "yes", "no"}));
  command
      .add_option("--delimiter", arguments.delimiter,
                  "Between the fields of a CSV file; `auto` recognises it")
      ->check(CLI::IsMember({"auto", ",", ";", "tab", "|"}));
  command
      .add_option("--max-length", arguments.max_length, "Longest sequence in tokens; default: as in training")
      ->check(positive_number())
      ->type_name("N");
  command.add_option("--batch-tokens", arguments.batch_tokens, "Tokens in a batch")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
}

void say_delimiter(const Dataset& data) {
  if (!data.delimiter_note().empty()) log_info(data.delimiter_note());
}

DataConfig merged_data_config(const DataConfig& known, const DataArguments& arguments) {
  DataConfig config = known;
  if (!arguments.text.empty()) config.text = arguments.text;
  if (!arguments.text_pair.empty()) config.text_pair = arguments.text_pair;
  if (!arguments.label.empty()) config.label = arguments.label;
  if (!arguments.format.empty()) config.format = arguments.format;
  if (!arguments.header.empty()) config.header = arguments.header;
  if (!arguments.delimiter.empty()) config.delimiter = arguments.delimiter;
  if (!arguments.glue_task.empty()) config.glue_task = arguments.glue_task;
  // A column that is named by hand means a table of one's own, whatever the adapter was trained on.
  if (arguments.glue_task.empty() && !arguments.text.empty()) config.glue_task.reset();
  return config;
}

}  // namespace msplora
