#include "msplora/bench/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "msplora/bench/gemm.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/core/stopwatch.h"
#include "msplora/decoding/generator.h"
#include "msplora/models/model.h"
#include "msplora/models/step_flops.h"

namespace msplora {
namespace {

void check_lengths(const GenerateBenchOptions& options, const Architecture& architecture) {
  ErrorList errors;
  const auto at_least = [&](const char* name, int64_t value, int64_t least) {
    if (value < least) errors.add(name, fmt::format("expected at least {}, found {}", least, value));
  };
  at_least("texts", options.texts, 1);
  at_least("prompt", options.prompt, 1);
  at_least("generated", options.generated, 2);  // the first token belongs to the prompt
  at_least("rounds", options.rounds, 1);
  if (options.prompt + options.generated > architecture.longest) {
    errors.add("prompt", fmt::format("{} and {} tokens, but the model takes {}", options.prompt,
                                     options.generated, architecture.longest));
  }
  errors.throw_if_any(ErrorCode::kUsage, "bench generate");
}

std::unique_ptr<Model> bench_language_model(const GenerateBenchOptions& options) {
  if (!supports_task(options.model.model_type, ModelTask::kCausalLm))
    throw Error(ErrorCode::kUsage, "bench generate", options.model.model_type + " does not write texts");
  ModelLoadOptions load;
  load.task = ModelTask::kCausalLm;
  load.compute_dtype = options.dtype;
  load.seed = options.seed;
  return options.weights.empty() ? create_model(options.model, load) : load_model(options.weights, load);
}

double prompt_flops_of(const Architecture& architecture, const GenerateBenchOptions& options) {
  StepQuestion question;
  question.lengths.assign(static_cast<size_t>(options.texts), options.prompt);
  question.sites.resize(linears_of(architecture).size());
  question.reads_one_row = false;
  question.predicted_tokens = options.texts;
  const StepFlops flops = count_step_flops(architecture, question);
  return flops.linear_forward + flops.attention_forward;
}

double weight_bytes_of(Model& model, at::ScalarType dtype) {
  double elements = 0;
  for (const PlacedLinear& linear : linears_of(model.architecture())) {
    if (linear.spec.role != LinearRole::kWords)  // a few rows of which are read
      elements += static_cast<double>(linear.spec.in * linear.spec.out);
  }
  return elements * bytes_in_products(model.parameters(), dtype, Directions::kForward);
}

// Keys and values that the tokens of one pass see when `length` tokens are there.
double cache_bytes_of(const Architecture& architecture, int64_t length, at::ScalarType dtype) {
  double elements = 0;
  for (const BlockSpec& block : architecture.blocks) {
    const AttentionShape& shape = block.attention.shape;
    const int64_t seen = shape.window_left < 0 ? length : std::min(length, shape.window_left + 1);
    elements += static_cast<double>(2 * shape.kv_heads * shape.head_dim * seen);
  }
  return elements * static_cast<double>(c10::elementSize(dtype));
}

std::vector<GenerationRequest> drawn_requests(const GenerateBenchOptions& options, int64_t vocabulary) {
  RandomStream random(options.seed, "bench prompts");
  std::vector<GenerationRequest> requests(static_cast<size_t>(options.texts));
  for (GenerationRequest& request : requests) {
    for (int64_t i = 0; i < options.prompt; ++i)
      request.prompt_ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
    request.options.max_new_tokens = options.generated;
    request.options.do_sample = options.draws;
    if (options.draws) request.options.top_p = 0.95;
  }
  return requests;
}

}  // namespace

GenerateBenchResult bench_generate(const GenerateBenchOptions& options) {
  const Stopwatch watch;
  const std::unique_ptr<Model> model = bench_language_model(options);
  const Architecture& architecture = model->architecture();
  check_lengths(options, architecture);
  GenerateBenchResult result;
  result.texts = options.texts;
  result.prompt_tokens = options.texts * options.prompt;
  result.prompt_flops = prompt_flops_of(architecture, options);
  result.weight_bytes = weight_bytes_of(*model, options.dtype);
  result.cache_bytes = static_cast<double>(options.texts) *
                       cache_bytes_of(architecture, options.prompt + options.generated / 2, options.dtype);
  GeneratorOptions settings;
  settings.max_batch = options.texts;
  settings.prefill_tokens = result.prompt_tokens;
  Generator generator(*model, nullptr, {}, settings);
  {
    GenerationRequest first;
    first.prompt_ids = {0};
    first.options.max_new_tokens = 1;
    generator.generate(std::move(first));
    result.ready_seconds = watch.seconds();
  }
  std::optional<GemmRoof> roof;
  if (options.measures_roofs)
    roof.emplace(GemmSize{result.prompt_tokens, architecture.hidden_size(), architecture.intermediate_size()},
                 options.dtype);
  // The first round makes room and is not counted.
  for (int64_t round = 0; round <= options.rounds; ++round) {
    std::vector<GenerationRequest> requests = drawn_requests(options, architecture.vocab_size());
    std::vector<double> times;  // before each pass
    requests.front().is_cancelled = [&] {
      times.push_back(watch.seconds());
      return false;
    };
    generator.generate(std::move(requests));
    times.push_back(watch.seconds());
    const auto seconds = [&](size_t i) { return times[i + 1] - times[i]; };
    if (round == 0) continue;
    result.prompts.seconds.push_back(seconds(0));
    for (size_t i = 1; i + 1 < times.size(); ++i) result.tokens.seconds.push_back(seconds(i));
    if (!roof) continue;
    roof->measure();
    roof->measure();
    constexpr int64_t kBeyondCaches = 256 << 20;
    result.read_bytes_per_second = std::max(result.read_bytes_per_second, read_bandwidth(kBeyondCaches, 3));
  }
  if (roof) result.roof_flops_per_second = roof->flops_per_second();
  return result;
}

}  // namespace msplora
