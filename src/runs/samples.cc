#include "runs/samples.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/dump_json.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/decoding/generator.h"
#include "msplora/runs/language_model.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

class SampleSink : public EventSink {
 public:
  SampleSink(Run& run, const std::vector<std::unique_ptr<EventSink>>& listeners)
      : run_(run), path_(run.directory->samples()) {
    for (const auto& listener : listeners) listeners_.push_back(listener.get());
    options_.eos_token_id =
        generation_defaults(run.recipe.model.path, run.config, *run.tokenizer).eos_token_id;
    options_.max_new_tokens = run.recipe.train.samples.max_new_tokens;
  }

  void on_start(const RunInfo& info) override {
    lines_.clear();
    if (info.resumed && path_exists(path_)) keep_lines_until(info.first_step);
    if (info.first_step == 0) ask(0);
  }
  void on_evaluation(int64_t step, double, const Evaluation&, bool) override { ask(step); }

 private:
  void keep_lines_until(int64_t last_step) {
    std::istringstream lines(read_file(path_));
    for (std::string line; std::getline(lines, line);) {
      const auto json = detail::try_strict_json(line);
      if (!json || !json->is_object() || !json->contains("step")) continue;
      const auto& step = json->at("step");
      if (step.is_number_integer() && step.get<int64_t>() <= last_step) lines_ += line + "\n";
    }
  }

  GenerationRequest request_of(const std::string& prompt) const {
    GenerationRequest request;
    request.prompt = prompt;
    if (const auto& chat_template = run_.data.task->settings().chat_template) {
      request = chat_request(*chat_template, *run_.tokenizer,
                             Json::array({{{"role", "user"}, {"content", prompt}}}));
    }
    request.options = options_;
    return request;
  }

  void ask(int64_t step) {
    const at::NoGradGuard no_gradients;
    const std::vector<std::string>& prompts = run_.recipe.train.samples.prompts;
    std::vector<GenerationRequest> requests;
    for (const std::string& prompt : prompts) requests.push_back(request_of(prompt));
    Generator generator(*run_.model, run_.tokenizer, options_.eos_token_id);
    const std::vector<Generation> texts = generator.generate(std::move(requests));
    for (size_t i = 0; i < texts.size(); ++i) {
      const Json line = {{"step", step},
                         {"prompt", prompts[i]},
                         {"text", texts[i].text},
                         {"tokens", texts[i].tokens.size()},
                         {"finish_reason", finish_reason_name(texts[i].finish_reason)}};
      lines_ += dump_json(line) + "\n";
      const std::string said = fmt::format("sample at step {}: {} -> {}", step, printable_line(prompts[i]),
                                           printable_line(texts[i].text));
      for (EventSink* listener : listeners_) listener->on_message(said);
    }
    write_file_atomically(path_, lines_);
  }

  Run& run_;
  std::filesystem::path path_;
  std::vector<EventSink*> listeners_;
  GenerationOptions options_;
  std::string lines_;
};

}  // namespace

std::unique_ptr<EventSink> make_sample_sink(Run& run,
                                            const std::vector<std::unique_ptr<EventSink>>& listeners) {
  return std::make_unique<SampleSink>(run, listeners);
}

}  // namespace msplora
