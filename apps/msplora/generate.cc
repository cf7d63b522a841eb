#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "generation_arguments.h"
#include "msplora/core/dump_json.h"
#include "msplora/core/file.h"
#include "msplora/core/input_file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/core/stopwatch.h"
#include "msplora/data/row_json.h"
#include "msplora/templates/messages.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateArguments {
  GenerationArguments generation;
  std::vector<std::string> prompts;
  std::string file;
  std::string output;
  int64_t samples = 1;
  int64_t max_batch = 16;
  bool logprobs = false;
  bool echo = false;
  bool chat = false;
};

/// A text to be written, and the adapter that it is written with.
struct Job {
  GenerationRequest request;
  std::string adapter;
  Json id;        // of the line it comes from; null without one
  Json messages;  // of a conversation, whose answer is wanted; null: a text
  Json tools;
  std::string where;             // file and line, or which prompt of the command line; "" for one alone
  std::optional<Error> problem;  // why it is not answered
};

/// What a line of JSON asks for: `prompt` or `messages`, maybe `adapter` and `id`, and options by their
/// names.
Job job_of_json(const std::string& line, const std::string& where, const Job& common) {
  const Json given = parse_row(line, where);
  const bool has_prompt = given.is_object() && given.contains("prompt") && given["prompt"].is_string();
  const bool has_messages = given.is_object() && given.contains("messages") && given["messages"].is_array();
  if (has_prompt == has_messages) {
    throw Error(ErrorCode::kData, where, "expected an object with a text `prompt` or a list `messages`",
                R"({"prompt": "Once upon a time", "max_new_tokens": 50})");
  }
  Job job = common;
  job.where = where;
  if (has_prompt) job.request.prompt = given["prompt"];
  if (has_messages) job.messages = given["messages"];
  nlohmann::json options = given;
  options.erase(has_prompt ? "prompt" : "messages");
  if (has_messages && given.contains("tools")) {
    job.tools = given["tools"];
    options.erase("tools");
  }
  if (given.contains("id")) job.id = given["id"];
  options.erase("id");
  if (given.contains("adapter")) {
    if (!given["adapter"].is_string()) throw Error(ErrorCode::kData, where, "`adapter` is not a name");
    job.adapter = given["adapter"];
  }
  options.erase("adapter");
  ErrorList errors;
  override_generation(job.request.options, options, where, errors);
  check_generation(job.request.options, where + ": ", errors);
  errors.throw_if_any(ErrorCode::kData, where);
  return job;
}

/// Writes a conversation as the model reads it; with `chat` every prompt is one.
void render_conversation(Job& job, bool chat, const LanguageModel& model) {
  if (job.messages.is_null() && !chat) return;
  if (job.messages.is_null())
    job.messages = Json::array({{{"role", "user"}, {"content", job.request.prompt}}});
  ChatOptions options;
  options.tools = job.tools;
  GenerationRequest rendered = model.request_for(job.messages, options);
  job.request.prompt = std::move(rendered.prompt);
  job.request.prompt_ids = std::move(rendered.prompt_ids);
}

/// Reads every prompt as the model will. One of several that it cannot take keeps its problem and stands
/// aside.
void prepare_prompts(std::vector<Job>& jobs, const GenerateArguments& arguments, LanguageModel& model) {
  for (Job& job : jobs) {
    const std::string where = job.where.empty() ? "the prompt" : job.where;
    try {
      model.use(job.adapter);  // its template counts
      render_conversation(job, arguments.chat, model);
      job.request.prompt_ids = model.generator().prompt_of(job.request, where);
    } catch (const Error& error) {
      if (job.where.empty()) throw;
      const Error told = error.where() == where ? error : error_of_row(error, job.where, error.code());
      if (error.code() != ErrorCode::kData) throw told;
      log_warning(told.what());
      job.problem = told;
    }
  }
}

/// Arguments that say something about prompts that none of them is for.
void check_jobs(const std::vector<Job>& jobs, const GenerateArguments& arguments, bool is_json) {
  const auto refuse = [](const char* option, const char* message, const char* hint) {
    throw Error(ErrorCode::kUsage, option, message, hint);
  };
  const auto any = [&](const auto& holds) { return std::any_of(jobs.begin(), jobs.end(), holds); };
  if (arguments.logprobs && !is_json) refuse("--logprobs", "are shown as JSON alone", "add --json");
  if (arguments.logprobs && any([](const Job& job) { return job.request.options.num_beams > 1; }))
    refuse("--logprobs", "are not kept of beams, whose scores are given",
           "leave out --logprobs, or --num-beams");
  if (arguments.samples > 1 && any([](const Job& job) { return !job.request.options.do_sample; })) {
    refuse("--samples", "nothing is drawn, so that all texts of a prompt would be the same",
           "add --do-sample or --temperature, or leave out --samples");
  }
  const bool has_messages = arguments.chat || any([](const Job& job) { return !job.messages.is_null(); });
  if (!arguments.generation.chat_template.empty() && !has_messages)
    refuse("--chat-template", "no prompt is a conversation", "add --chat, which makes messages of prompts");
}

/// Prompts of the command line, else of the file: a JSON object a line (.jsonl), or a prompt a line.
std::vector<Job> read_jobs(const GenerateArguments& arguments, const Job& common) {
  std::vector<Job> jobs;
  const auto add = [&](Job job) {
    for (int64_t i = 0; i < arguments.samples; ++i) {
      job.request.number = jobs.size();
      jobs.push_back(job);
    }
  };
  const auto add_prompt = [&](const std::string& prompt, const std::string& where) {
    Job job = common;
    job.request.prompt = prompt;
    job.where = where;
    add(std::move(job));
  };
  const bool is_one = arguments.prompts.size() == 1 && arguments.file.empty();
  for (size_t i = 0; i < arguments.prompts.size(); ++i)
    add_prompt(arguments.prompts[i], is_one ? "" : fmt::format("--prompt {}", i + 1));
  if (!jobs.empty() && arguments.file.empty()) return jobs;
  if (arguments.file.empty() || arguments.file == "-") {
    // All of standard input is one prompt.
    std::string prompt{std::istreambuf_iterator<char>(std::cin), {}};
    if (!prompt.empty() && prompt.back() == '\n') prompt.pop_back();
    add_prompt(prompt, jobs.empty() ? "" : "standard input");
    return jobs;
  }
  const bool is_json = unpacked_name(arguments.file).extension() == ".jsonl";
  LineReader reader(arguments.file);
  std::string line;
  while (reader.next(line)) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    const std::string where = file_and_line(arguments.file, reader.line());
    if (is_json) {
      add(job_of_json(line, where, common));
    } else {
      add_prompt(line, where);
    }
  }
  if (jobs.empty()) throw Error(ErrorCode::kData, arguments.file, "holds no prompts");
  return jobs;
}

std::string last_content(const Json& messages) {
  const Json content = messages.empty() ? Json() : messages.back().value("content", Json());
  return content.is_string() ? content.get<std::string>() : content.dump();
}

Json to_json(const Job& job, const Generation& generation, const LanguageModel& model) {
  Json json;
  if (!job.id.is_null()) json["id"] = job.id;
  if (job.messages.is_null()) {
    json["prompt"] = job.request.prompt;
  } else {
    json["messages"] = job.messages;
  }
  if (job.problem) {
    json["error"] = job.problem->what();
    return json;
  }
  json["text"] = generation.text;
  json["finish_reason"] = finish_reason_name(generation.finish_reason);
  json["prompt_tokens"] = generation.prompt_tokens;
  json["tokens"] = generation.tokens;
  if (!job.adapter.empty()) json["adapter"] = job.adapter;
  if (job.request.options.do_sample) json["seed"] = job.request.options.seed;
  if (!generation.logprobs.empty()) json["logprobs"] = generation.logprobs;
  for (const Hypothesis& beam : generation.beams) {
    json["beams"].push_back(
        {{"text", model.tokenizer()->decode(beam.tokens)}, {"score", beam.score}, {"tokens", beam.tokens}});
  }
  return json;
}

/// Writes results in the order of their prompts, each as soon as those before it are there.
class ResultWriter {
 public:
  ResultWriter(const std::vector<Job>& jobs, const GenerateArguments& arguments, bool is_json,
               const LanguageModel& model, std::ostream& out)
      : jobs_(jobs),
        arguments_(arguments),
        is_json_(is_json),
        model_(model),
        out_(out),
        results_(jobs.size()) {}

  /// One prompt on the terminal: its text is shown as it comes.
  bool is_streamed() const { return jobs_.size() == 1 && !is_json_; }

  void take(size_t index, Generation generation) {
    results_[index] = std::move(generation);
    write_ready();
  }
  /// Those whose turn it is.
  void write_ready() {
    while (next_ < jobs_.size() && (results_[next_] || jobs_[next_].problem)) write(next_++);
    out_ << std::flush;
  }
  const std::vector<std::optional<Generation>>& results() const { return results_; }

 private:
  void write(size_t index) {
    const Job& job = jobs_[index];
    const Generation generation = results_[index].value_or(Generation{});
    if (is_json_) {
      out_ << dump_json(to_json(job, generation, model_)) << '\n';
      return;
    }
    if (job.problem) {
      out_ << (index > 0 ? "\n" : "") << "==> " << job.where << "\nnot answered: " << job.problem->message()
           << '\n';
      return;
    }
    if (is_streamed()) {
      if (!generation.beams.empty()) out_ << generation.text;
      out_ << '\n';
      return;
    }
    if (index > 0) out_ << '\n';
    const std::string shown = job.messages.is_null() ? job.request.prompt : last_content(job.messages);
    out_ << "==> " << shown << '\n' << generation.text << '\n';
  }

  const std::vector<Job>& jobs_;
  const GenerateArguments& arguments_;
  bool is_json_;
  const LanguageModel& model_;
  std::ostream& out_;
  std::vector<std::optional<Generation>> results_;
  size_t next_ = 0;
};

void say_speed(const std::vector<Job>& jobs, const std::vector<std::optional<Generation>>& results,
               double seconds) {
  size_t read = 0, made = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i]) continue;
    // Texts of one prompt have it read once.
    const bool is_shared = i > 0 && jobs[i].request.prompt_ids == jobs[i - 1].request.prompt_ids;
    if (!is_shared) read += results[i]->prompt_tokens;
    made += results[i]->tokens.size();
  }
  log_info(fmt::format("{} tokens read and {} written in {:.2f} s ({:.1f} written a second)", read, made,
                       seconds, static_cast<double>(made) / std::max(seconds, 1e-9)));
}

/// How many prompts were not answered.
size_t generate_all(const GenerateArguments& arguments, const CommonOptions& common, std::ostream& out,
                    bool is_json) {
  GeneratorOptions options;
  options.max_batch = arguments.max_batch;
  LanguageModel model = open_language_model(arguments.generation, options, common);
  Job shared;
  shared.request.options = with_arguments(model.defaults(), arguments.generation);
  shared.request.wants_logprobs = arguments.logprobs;
  shared.request.is_cancelled = interrupt_requested;
  shared.adapter = model.adapter();
  std::vector<Job> jobs = read_jobs(arguments, shared);
  check_jobs(jobs, arguments, is_json);
  prepare_prompts(jobs, arguments, model);
  ResultWriter writer(jobs, arguments, is_json, model, out);
  if (writer.is_streamed()) {
    if (arguments.echo) out << jobs.front().request.prompt << std::flush;
    jobs.front().request.on_text = [&out](std::string_view text) { out << text << std::flush; };
  }
  std::map<std::string, std::vector<size_t>> by_adapter;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (!jobs[i].problem) by_adapter[jobs[i].adapter].push_back(i);
  }
  writer.write_ready();
  const Stopwatch watch;
  for (const auto& [adapter, members] : by_adapter) {
    model.use(adapter);
    std::vector<GenerationRequest> requests;
    for (const size_t i : members) requests.push_back(jobs[i].request);
    model.generator().generate(std::move(requests), [&](size_t index, const Generation& generation) {
      if (generation.finish_reason != FinishReason::kCancelled || writer.is_streamed())
        writer.take(members[index], generation);
    });
  }
  say_speed(jobs, writer.results(), watch.seconds());
  if (interrupt_requested()) throw Error(ErrorCode::kInterrupted, "generate", "stopped");
  return static_cast<size_t>(
      std::count_if(jobs.begin(), jobs.end(), [](const Job& job) { return job.problem.has_value(); }));
}

/// The others were, and what is written stays.
void fail_where_unanswered(size_t count) {
  if (count == 0) return;
  log(LogLevel::kError, fmt::format("{} of the prompts {} not answered", count, count == 1 ? "was" : "were"));
  throw FailureTold{};
}

void generate(const GenerateArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  const bool is_json = common.json || std::filesystem::path(arguments.output).extension() == ".jsonl";
  if (arguments.output.empty())
    return fail_where_unanswered(generate_all(arguments, common, std::cout, is_json));
  refuse_packed_name(arguments.output, "--output");
  std::vector<std::filesystem::path> inputs = {arguments.generation.model};
  if (!arguments.file.empty()) inputs.emplace_back(arguments.file);
  for (const auto& [name, path] : adapter_paths(arguments.generation)) inputs.emplace_back(path);
  refuse_input_as_output(arguments.output, inputs);
  prepare_output_file(arguments.output, /*overwrite=*/true);  // said before the texts are written
  size_t unanswered = 0;
  write_file_atomically(arguments.output, [&](std::ostream& out) {
    unanswered = generate_all(arguments, common, out, is_json);
  });
  fail_where_unanswered(unanswered);
}

}  // namespace

Command add_generate(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("generate", "Go on with texts");
  auto arguments = std::make_shared<GenerateArguments>();
  add_generation_arguments(*command, arguments->generation);
  command
      ->add_option("--prompt", arguments->prompts, "Text to go on with; repeatable. Default: standard input")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option(
          "--prompts", arguments->file,
          "File of prompts: one a line, or in .jsonl an object with `prompt` or `messages` and options of "
          "its own")
      ->type_name("FILE");
  command
      ->add_option("--output", arguments->output,
                   "File to write (.jsonl: as --json); default: standard output")
      ->type_name("FILE");
  command->add_option("--samples", arguments->samples, "Texts for each prompt, with draws of their own")
      ->check(positive_number());
  command->add_option("--max-batch", arguments->max_batch, "Texts that are written at a time")
      ->check(positive_number());
  command->add_flag("--logprobs", arguments->logprobs, "With --json: log-probabilities of the tokens");
  command->add_flag("--chat", arguments->chat, "Every prompt is a message, which the model answers");
  command->add_flag("--echo", arguments->echo, "Show the prompt before its text");
  add_common(*command, common);
  return {command,
          [arguments, &common] {
            find_files(arguments->generation);
            generate(*arguments, common);
          },
          "fewer texts at a time (--max-batch, --num-beams), shorter ones (--max-new-tokens) and --dtype "
          "bfloat16 need less"};
}

}  // namespace msplora
