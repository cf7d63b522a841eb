#include <c10/util/Exception.h>
#include <cxxabi.h>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/kernels/kernels.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kExitSignal = 128;  // plus the number of the signal, as shells have it

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
    case ErrorCode::kConfig:
      return kExitUsage;
    case ErrorCode::kInterrupted:
      return kExitSignal + (interrupt_signal() != 0 ? interrupt_signal() : SIGINT);
    default:
      return kExitFailure;
  }
}

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kConfig:
      return "config";
    case ErrorCode::kData:
      return "data";
    case ErrorCode::kFormat:
      return "format";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kModel:
      return "model";
    case ErrorCode::kNumerics:
      return "numerics";
    case ErrorCode::kInterrupted:
      return "interrupted";
  }
  return "unknown";
}

/// A last line on standard error.
void tell(LogLevel level, const std::string& text) {
  if (log_format() == LogFormat::kJson) {
    std::cerr << log_line(level, text) << std::endl;
    return;
  }
  const char* word = level == LogLevel::kError ? "error: " : level == LogLevel::kDebug ? "debug: " : "";
  std::cerr << "msplora: " << word << text << std::endl;
}

int report_error(const CommonOptions& common, const Error& error) {
  // An interruption that was handled is news, not an error.
  tell(error.code() != ErrorCode::kInterrupted ? LogLevel::kError : LogLevel::kInfo, error.what());
  if (common.json) {
    print_json({{"error",
                 {{"kind", code_name(error.code())},
                  {"where", error.where()},
                  {"message", error.message()},
                  {"hint", error.hint()}}}});
  }
  return exit_code(error.code());
}

std::string type_of(const std::exception& error) {
  int status = 0;
  char* name = abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, &status);
  const std::string text = status == 0 ? name : typeid(error).name();
  std::free(name);
  return text;
}

/// Of the command that runs; set before it begins, for what is thrown in other threads.
const char* memory_hint = kMoreMemory;

Error out_of_memory() {
  return {ErrorCode::kIo, "memory", "the system has no more of it", memory_hint};
}

/// For what is thrown where nothing can catch it, in a thread of OpenMP.
[[noreturn]] void on_terminate() {
  std::string text = "ended without an exception";
  try {
    if (const std::exception_ptr current = std::current_exception()) std::rethrow_exception(current);
  } catch (const std::bad_alloc&) {
    text = out_of_memory().what();
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
    text = "an unknown exception";
  }
  tell(LogLevel::kError, printable(text));
  std::_Exit(kExitFailure);
}

int run_command(const CommonOptions& common, const Command& command) {
  memory_hint = command.memory_hint;
  try {
    device_of(common);      // refused before anything is read,
    kernels::active_isa();  // as is a wrong MSPLORA_ISA
    install_interrupt_handler();
    command.run();
    std::cout.flush();
    if (!std::cout)
      throw Error(ErrorCode::kIo, "standard output", "cannot write",
                  "is it closed, or the disk full? what goes to files is complete");
    return 0;
  } catch (const FailureTold& failure) {
    std::cout.flush();
    return failure.status;
  } catch (const Error& error) {
    if (common.debug) tell(LogLevel::kDebug, std::string("msplora::Error, kind ") + code_name(error.code()));
    return report_error(common, error);
  } catch (const std::bad_alloc&) {
    return report_error(common, out_of_memory());
  } catch (const c10::Error& error) {
    const std::string text = common.debug ? error.what() : error.what_without_backtrace();
    if (text.find("not enough memory") != std::string::npos) return report_error(common, out_of_memory());
    return report_error(common, Error(ErrorCode::kModel, "libtorch", text));
  } catch (const std::exception& error) {
    if (common.debug) tell(LogLevel::kDebug, type_of(error));
    return report_error(common, Error(ErrorCode::kIo, "", error.what()));
  }
}

std::vector<std::string> names_of(const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  for (const CLI::App* command : commands) {
    if (!command->get_name().empty() && !command->get_group().empty()) names.push_back(command->get_name());
  }
  return names;
}

/// The innermost subcommand that the arguments name.
const CLI::App& innermost(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : innermost(*parsed.front());
}

/// "msplora bench step".
std::string full_name(const CLI::App& program) {
  const auto parsed = program.get_subcommands();
  return program.get_name() + (parsed.empty() ? std::string() : " " + full_name(*parsed.front()));
}

/// What the user may have meant by a word that fits nowhere.
std::string hint_for(const CLI::App& program, int argc, char** argv) {
  const CLI::App& at = innermost(program);
  std::vector<std::string> known = names_of(at.get_subcommands([](const CLI::App*) { return true; }));
  std::vector<std::string> options;
  for (const CLI::Option* option : at.get_options()) {
    for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
  }
  for (int i = 1; i < argc; ++i) {
    const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
    const auto& names = word.starts_with("-") ? options : known;
    if (std::find(names.begin(), names.end(), word) != names.end()) continue;
    const std::string hint = did_you_mean(word, names);
    if (!hint.empty()) return hint;
  }
  return "see `" + full_name(program) + " --help`";
}

/// What --log-format says, also where the rest of the command line cannot be read.
LogFormat log_format_of(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--log-format=json") return LogFormat::kJson;
    if (word == "--log-format" && i + 1 < argc && argv[i + 1] == std::string("json")) return LogFormat::kJson;
  }
  return LogFormat::kText;
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace
}  // namespace msplora

int main(int argc, char** argv) {
  using namespace msplora;
  std::set_terminate(on_terminate);
  set_log_format(log_format_of(argc, argv));
  keep_freed_memory();
  CLI::App program("Low-rank adaptation of pretrained transformers: MSPLoRA, LoRA and relatives.", "msplora");
  program.set_version_flag("--version", "msplora " MSPLORA_VERSION);
  program.require_subcommand(1);
  program.get_formatter()->column_width(34);
  CommonOptions common;
  std::vector<Command> commands;
  for (const auto add : {add_train, add_eval, add_predict, add_generate, add_chat, add_merge, add_export,
                         add_inspect, add_validate}) {
    commands.push_back(add(program, common));
  }
  CLI::App& data = *program.add_subcommand("data", "Look at data");
  data.require_subcommand(1);
  commands.push_back(add_data_preview(data, common));
  CLI::App& bench = *program.add_subcommand("bench", "Measure products, kernels and training steps");
  bench.require_subcommand(1);
  for (const auto add :
       {add_bench_gemm, add_bench_kernels, add_bench_step, add_bench_epoch, add_bench_generate,
        add_bench_load, add_bench_analyze, add_bench_memory, add_bench_methods, add_bench_peers}) {
    commands.push_back(add(bench, common));
  }
  for (const auto add :
       {add_tokenize, add_pretrain, add_federate, add_compare, add_analyze, add_results, add_docs}) {
    commands.push_back(add(program, common));
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version, unless a word before them is no command: CLI11 would show the general help.
    const bool is_unknown = argc > 1 && argv[1][0] != '-' && program.get_subcommands().empty();
    if (error.get_exit_code() == 0 && !is_unknown) return program.exit(error);
    if (is_unknown) {
      return report_error(common,
                          Error(ErrorCode::kUsage, "", fmt::format("there is no command `{}`", argv[1]),
                                hint_for(program, argc, argv)));
    }
    return report_error(
        common, Error(ErrorCode::kUsage, "", first_line(error.what()), hint_for(program, argc, argv)));
  }
  for (const Command& command : commands) {
    if (command.arguments->parsed()) return run_command(common, command);
  }
  return kExitUsage;
}
