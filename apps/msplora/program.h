#pragma once

#include <c10/core/Device.h>
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

/// Options that every subcommand has.
struct CommonOptions {
  bool json = false;
  bool debug = false;
  int64_t threads = 0;
  std::string log_format = "text";
  std::string device;  // empty: what the recipe says, else cpu
};

/// What needs less where memory ran out. Commands that have no such setting take the first.
inline constexpr char kMoreMemory[] = "end other programs, or use a machine with more";
inline constexpr char kLessMemoryInTraining[] =
    "smaller batches (train.token_budget), train.checkpoint_activations and bfloat16 (train.dtype) need less";
inline constexpr char kLessMemoryInEvaluation[] =
    "smaller batches (--batch-tokens) and --dtype bfloat16 need less";

/// One subcommand: its arguments and what it does with them.
struct Command {
  CLI::App* arguments = nullptr;
  std::function<void()> run;
  const char* memory_hint = kMoreMemory;
};

/// Thrown where all that went wrong was told as it happened: the program ends with this status and says no
/// more.
struct FailureTold {
  int status = 1;
};

/// Of --device. Throws as parse_device does.
c10::Device device_of(const CommonOptions& common);

/// Adds --json, --threads, --device, --log-format and --debug.
void add_common(CLI::App& command, CommonOptions& common);

Command add_train(CLI::App& program, CommonOptions& common);
Command add_eval(CLI::App& program, CommonOptions& common);
Command add_predict(CLI::App& program, CommonOptions& common);
Command add_generate(CLI::App& program, CommonOptions& common);
Command add_chat(CLI::App& program, CommonOptions& common);
Command add_merge(CLI::App& program, CommonOptions& common);
Command add_export(CLI::App& program, CommonOptions& common);
Command add_inspect(CLI::App& program, CommonOptions& common);
Command add_validate(CLI::App& program, CommonOptions& common);
Command add_data_preview(CLI::App& data, CommonOptions& common);
Command add_tokenize(CLI::App& program, CommonOptions& common);
Command add_pretrain(CLI::App& program, CommonOptions& common);
Command add_federate(CLI::App& program, CommonOptions& common);
Command add_analyze(CLI::App& program, CommonOptions& common);
Command add_results(CLI::App& program, CommonOptions& common);
Command add_compare(CLI::App& program, CommonOptions& common);
Command add_docs(CLI::App& program, CommonOptions& common);

/// For the options that name a type: takes every usual name (core/dtype_names.h) of those in `names`.
CLI::Validator dtype_choice(std::vector<std::string> names);
/// Numbers above 0, and those from 0 on.
CLI::Validator positive_number();
CLI::Validator non_negative_number();

/// "135,168".
std::string with_commas(int64_t number);
/// "512 KiB", "1.4 GiB".
std::string bytes_text(int64_t bytes);
/// "a, b and 3 more".
std::string shortened(const std::vector<std::string>& names, size_t shown = 8);
std::vector<std::string> split_commas(const std::string& text);
/// The same for names, which may hold commas between double quotes, and there a double quote as two of them
/// (`a,"b, c","say ""d"""`); spaces around a name go.
std::vector<std::string> split_names(const std::string& text);

/// Rows of text in aligned columns, or as a Markdown table.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header, std::vector<bool> right = {});
  void add(std::vector<std::string> row);
  std::string text(const std::string& indent = "") const;
  std::string markdown() const;

 private:
  std::vector<size_t> widths() const;
  std::string padded(const std::string& cell, size_t column, size_t width) const;

  std::vector<std::vector<std::string>> rows_;  // the header first
  std::vector<bool> right_;
};

/// Throws Error{kUsage} for the name of a packed file (.gz, .xz), which is read but not written.
void refuse_packed_name(const std::string& file, const std::string& option);

/// What a command tells while it works: on standard output, or with --json, which has that for its result, as
/// log lines on standard error.
void say(const CommonOptions& common, const std::string& text);

/// One JSON document on standard output. Text that is not UTF-8 is written with replacement characters.
void print_json(const nlohmann::ordered_json& json);

}  // namespace msplora
