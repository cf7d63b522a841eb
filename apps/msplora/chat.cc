#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "generation_arguments.h"
#include "msplora/core/dump_json.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/core/option_io.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct ChatArguments {
  GenerationArguments generation;
  std::string prompt;
  std::string system;
  bool plain = false;
};

/// Waits for input so that a signal is noticed meanwhile. False at the end of the input, and when a stop was
/// asked for.
bool read_line(std::string& line) {
  while (std::cin.rdbuf()->in_avail() <= 0) {
    if (interrupt_requested()) return false;
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (poll(&input, 1, 200) != 0) break;
  }
  return static_cast<bool>(std::getline(std::cin, line));
}

/// What user and model say in turn: messages, written as the model's template has them, or without one a text
/// that both write.
class Conversation {
 public:
  Conversation(LanguageModel& model, GenerationOptions options, const ChatArguments& arguments,
               const CommonOptions& common)
      : model_(model),
        options_(std::move(options)),
        common_(common),
        is_terminal_(isatty(STDIN_FILENO) == 1),
        has_messages_(!arguments.plain && model.chat_template() != nullptr) {
    if (!arguments.system.empty()) system(arguments.system);
  }

  void run(const std::string& prompt) {
    if (is_terminal_) {
      say(has_messages_ ? "Type a message; /help lists commands."
                        : "Type a text for the model to go on with; /help lists commands.");
    }
    if (!prompt.empty()) answer(prompt);
    std::string line;
    while (!is_over_) {
      if (is_terminal_) std::cout << "> " << std::flush;
      if (!read_line(line)) break;
      try {
        if (line.starts_with("/")) {
          obey(line);
        } else if (!line.empty()) {
          answer(line);
        }
      } catch (const Error& error) {
        const bool is_stop = error.code() == ErrorCode::kInterrupted;
        if (!is_terminal_ && (is_stop || !line.starts_with("/"))) throw;
        if (is_stop) clear_interrupt();
        tell(error);
      }
    }
    if (is_terminal_ && !is_over_) std::cout << '\n';
    if (!is_terminal_ && status_ != 0) throw FailureTold{status_};
  }

 private:
  void say(const std::string& text) const {
    if (!common_.json) std::cout << text << '\n' << std::flush;
  }

  /// What went wrong with a line, after which the conversation goes on. Who is not there to read it is told
  /// by the program's status at the end.
  void tell(const Error& error) {
    if (is_terminal_) return say(error.what());
    log(LogLevel::kError, error.what());
    if (common_.json) {
      std::cout << dump_json(Json{
                       {"error",
                        {{"where", error.where()}, {"message", error.message()}, {"hint", error.hint()}}}})
                << '\n'
                << std::flush;
    }
    status_ = std::max(status_, error.code() == ErrorCode::kUsage ? 2 : 1);
  }

  /// Message by message.
  GenerationRequest request_for_message(const std::string& line) const {
    Json messages = messages_;
    messages.push_back(user_message(line));
    return model_.request_for(messages);
  }

  /// Special tokens stand at the beginning of the text alone.
  GenerationRequest request_for_text(const std::string& line) const {
    check_prompt_size(line.size(), "the text");
    EncodeOptions encode;
    encode.add_special_tokens = ids_.empty();
    const std::vector<int32_t> read =
        model_.tokenizer()->encode({ids_.empty() ? line : "\n" + line, {}}, encode).ids;
    GenerationRequest request;
    request.prompt_ids = ids_;
    request.prompt_ids.insert(request.prompt_ids.end(), read.begin(), read.end());
    return request;
  }

  static Json user_message(const std::string& line) { return {{"role", "user"}, {"content", line}}; }

  /// What was said and answered, which the next request begins with.
  void record(const std::string& line, std::vector<int32_t> prompt_ids, const Generation& made) {
    transcript_ += (has_messages_ ? "> " + line + "\n" : line) + made.text + "\n";
    if (has_messages_) {
      messages_.push_back(user_message(line));
      messages_.push_back({{"role", "assistant"}, {"content", made.text}});
      return;
    }
    ids_ = std::move(prompt_ids);
    ids_.insert(ids_.end(), made.tokens.begin(), made.tokens.end());
    if (made.finish_reason == FinishReason::kEndToken) ids_.pop_back();
  }

  void answer(const std::string& line) {
    GenerationRequest request = has_messages_ ? request_for_message(line) : request_for_text(line);
    request.options = options_;
    request.number = turns_++;
    request.is_cancelled = interrupt_requested;
    if (!common_.json) request.on_text = [](std::string_view text) { std::cout << text << std::flush; };
    std::vector<int32_t> prompt_ids = request.prompt_ids;
    const Generation made = model_.generate(std::move(request));
    record(line, std::move(prompt_ids), made);
    show(made);
    // The first Ctrl-C ends an answer, not the conversation.
    if (made.finish_reason == FinishReason::kCancelled && is_terminal_) clear_interrupt();
    if (made.finish_reason == FinishReason::kLongest)
      say("(the model takes no longer text: /reset begins anew)");
  }

  void show(const Generation& made) const {
    if (!common_.json) {
      if (!made.beams.empty()) std::cout << made.text;
      std::cout << '\n' << std::flush;
      return;
    }
    std::cout << dump_json(Json{{"text", made.text},
                                {"finish_reason", finish_reason_name(made.finish_reason)},
                                {"prompt_tokens", made.prompt_tokens},
                                {"tokens", made.tokens}})
              << '\n'
              << std::flush;
  }

  void obey(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string rest =
        space == std::string::npos ? "" : line.substr(line.find_first_not_of(' ', space));
    const auto found = kCommands.find(name);
    if (found == kCommands.end()) {
      std::vector<std::string> names;
      for (const auto& [known, command] : kCommands) names.push_back(known);
      throw Error(ErrorCode::kUsage, "chat", "there is no command `" + name + "`", did_you_mean(name, names));
    }
    (this->*found->second.run)(rest);
  }

  void help(const std::string&) {
    for (const auto& [name, command] : kCommands) say(fmt::format("{:<10} {}", name, command.help));
  }
  bool has_system() const { return !messages_.empty() && messages_[0]["role"] == "system"; }
  /// The system's message stays.
  void reset(const std::string&) {
    messages_ = has_system() ? Json::array({messages_[0]}) : Json::array();
    ids_.clear();
    transcript_.clear();
    turns_ = 0;
    model_.generator().forget();
  }
  void system(const std::string& text) {
    if (!has_messages_) throw Error(ErrorCode::kUsage, "chat", "a system text needs a chat template");
    if (has_system()) messages_.erase(0);
    if (!text.empty()) messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", text}});
  }
  void adapter(const std::string& name) {
    if (!name.empty()) {
      model_.use(name == "none" ? "" : name);
    }
    say(fmt::format("adapter: {} (of: none, {})", model_.adapter().empty() ? "none" : model_.adapter(),
                    fmt::join(model_.adapters(), ", ")));
  }
  void set(const std::string& assignment) {
    if (!assignment.empty()) {
      const OptionNode node = parse_override(assignment);
      GenerationOptions changed = options_;
      ErrorList errors;
      read_options(changed, node, errors);
      if (node.find("do_sample") == nullptr && changed.has_filters()) changed.do_sample = true;
      check_generation(changed, "", errors);
      errors.throw_if_any(ErrorCode::kUsage, "chat");
      options_ = changed;
    }
    say(to_yaml(options_));
  }
  void save(const std::string& path) {
    if (path.empty()) throw Error(ErrorCode::kUsage, "chat", "/save needs a file");
    const bool is_json = std::filesystem::path(path).extension() == ".json" && has_messages_;
    write_file_atomically(path, is_json ? Json{{"messages", messages_}}.dump(1) + "\n" : transcript_);
    say("saved " + path);
  }
  void quit(const std::string&) { is_over_ = true; }

  struct ChatCommand {
    const char* help;
    void (Conversation::*run)(const std::string& rest);
  };
  static const std::map<std::string, ChatCommand> kCommands;

  LanguageModel& model_;
  GenerationOptions options_;
  const CommonOptions& common_;
  bool is_terminal_;
  bool has_messages_;
  bool is_over_ = false;
  int status_ = 0;  // of the program, for commands that could not be obeyed
  Json messages_ = Json::array();
  std::vector<int32_t> ids_;  // of the whole text
  std::string transcript_;
  uint64_t turns_ = 0;
};

const std::map<std::string, Conversation::ChatCommand> Conversation::kCommands = {
    {"/help", {"what can be typed", &Conversation::help}},
    {"/reset", {"forget what was said", &Conversation::reset}},
    {"/adapter",
     {"NAME: write with this adapter, or `none`; alone: which there are", &Conversation::adapter}},
    {"/set", {"OPTION=VALUE, e.g. temperature=0.7; alone: all options", &Conversation::set}},
    {"/system", {"TEXT: what the model is told first; alone: nothing", &Conversation::system}},
    {"/save", {"FILE: write what was said; .json: as messages", &Conversation::save}},
    {"/quit", {"end", &Conversation::quit}},
};

void chat(const ChatArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  if (arguments.plain && !(arguments.system.empty() && arguments.generation.chat_template.empty())) {
    throw Error(ErrorCode::kUsage, arguments.system.empty() ? "--chat-template" : "--system",
                "is for messages, and --plain has none", "leave out one of them");
  }
  GeneratorOptions options;
  options.keeps_last = true;
  LanguageModel model = open_language_model(arguments.generation, options, common);
  if (!arguments.plain && !model.chat_template() && model.chat_template_problem())
    throw *model.chat_template_problem();
  const GenerationOptions generation = with_arguments(model.defaults(), arguments.generation);
  Conversation(model, generation, arguments, common).run(arguments.prompt);
}

}  // namespace

Command add_chat(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("chat", "Talk with a model");
  auto arguments = std::make_shared<ChatArguments>();
  add_generation_arguments(*command, arguments->generation);
  command->add_option("--prompt", arguments->prompt, "What is typed first")->type_name("TEXT");
  command->add_option("--system", arguments->system, "What the model is told first")->type_name("TEXT");
  command->add_flag("--plain", arguments->plain, "Write one text in turn, without the model's chat template");
  add_common(*command, common);
  return {command,
          [arguments, &common] {
            find_files(arguments->generation);
            chat(*arguments, common);
          },
          "shorter texts (--max-new-tokens), fewer beams (--num-beams) and --dtype bfloat16 need less"};
}

}  // namespace msplora
