#include "msplora/models/gguf_export.h"

#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "models/registry.h"
#include "msplora/core/error.h"
#include "msplora/gguf/quantise.h"
#include "msplora/models/gguf.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora {
namespace {

[[noreturn]] void refuse_model(const std::string& what) {
  throw Error(ErrorCode::kUsage, "GGUF", "a file cannot say " + what,
              "write a Hugging Face directory instead (--format hf)");
}

/// Tokens, the one that asks included; 0: no layer slides.
int64_t narrowest_window(const Architecture& a) {
  int64_t window = 0;
  for (const BlockSpec& block : a.blocks) {
    const int64_t left = block.attention.shape.window_left;
    if (left >= 0 && left + 1 < a.longest) window = window == 0 ? left + 1 : std::min(window, left + 1);
  }
  return window;
}

/// Up to here readers that know of no windows compute the same.
int64_t context_of(const Architecture& a, const GgufFacts& facts) {
  const int64_t window = narrowest_window(a);
  return window == 0 || facts.reads_window ? a.longest : window;
}

/// The keys of an architecture, and the tensors of its angles.
class Settings {
 public:
  Settings(const Architecture& architecture, const GgufFacts& facts, GgufWriter& to)
      : a_(architecture), facts_(facts), to_(to) {}

  void write() {
    const AttentionShape& shape = a_.blocks.front().attention.shape;
    integer(gguf_key::kContextLength, context_of(a_, facts_));
    integer(gguf_key::kEmbeddingLength, a_.hidden_size());
    integer(gguf_key::kBlockCount, a_.num_layers());
    integer(gguf_key::kFeedForwardLength, a_.intermediate_size());
    integer(gguf_key::kVocabSize, a_.vocab_size());
    integer(gguf_key::kHeadCount, shape.heads);
    integer(gguf_key::kHeadCountKv, shape.kv_heads);
    integer(gguf_key::kKeyLength, shape.head_dim);
    integer(gguf_key::kValueLength, shape.head_dim);
    number(a_.final_norm.kind == NormKind::kLayer ? gguf_key::kNormEpsilon : gguf_key::kRmsEpsilon,
           a_.final_norm.eps);
    if (const int64_t window = narrowest_window(a_); window > 0 && facts_.reads_window)
      integer(gguf_key::kSlidingWindow, window);
    if (shape.soft_cap > 0) number(gguf_key::kAttentionSoftCap, shape.soft_cap);
    if (a_.head.soft_cap > 0) number(gguf_key::kFinalSoftCap, a_.head.soft_cap);
    if (!a_.rotaries.empty()) write_rotary(a_.rotaries.front());
  }

 private:
  std::string name(const char* key) const { return facts_.architecture + "." + key; }
  void integer(const char* key, int64_t value) { to_.set_integer(name(key), value); }
  void number(const char* key, double value) { to_.set_number(name(key), value); }

  void write_rotary(const RotarySpec& rotary) {
    integer(gguf_key::kRopeDimensions, 2 * static_cast<int64_t>(rotary.frequencies.size()));
    number(gguf_key::kRopeBase, rotary.theta);
    if (a_.rotaries.size() > 1) number(gguf_key::kRopeBaseWindow, a_.rotaries[1].theta);
    if (rotary.original_length > 0) integer(gguf_key::kRopeScalingContext, rotary.original_length);
    if (rotary.rule == "linear" || rotary.rule == "yarn") {
      to_.set(name(gguf_key::kRopeScalingType), rotary.rule);
      number(gguf_key::kRopeScalingFactor, rotary.factor);
    } else if (rotary.rule == "llama3" && facts_.reads_factors) {
      add_factors(kGgufRopeFactors, rotary, rotary.frequencies);
    } else if (rotary.rule == "longrope" && facts_.reads_long_factors) {
      number(gguf_key::kRopeScalingAttention, rotary.attention_factor);
      add_factors(kGgufRopeLong, rotary, rotary.long_frequencies);
      add_factors(kGgufRopeShort, rotary, rotary.frequencies);
    } else if (rotary.rule != "default" && rotary.rule != "dynamic") {  // which leaves this context as it is
      refuse_model(
          fmt::format("how `{}` scales the rotary angles of `{}`", rotary.rule, facts_.architecture));
    }
  }

  /// What plain frequencies are divided by.
  void add_factors(const char* tensor, const RotarySpec& rotary, const std::vector<double>& frequencies) {
    const auto count = static_cast<int64_t>(frequencies.size());
    const std::vector<double> plain = rotary_frequencies(2 * count, rotary.theta);
    std::vector<float> factors(frequencies.size());
    for (size_t i = 0; i < factors.size(); ++i) factors[i] = static_cast<float>(plain[i] / frequencies[i]);
    to_.add(tensor, GgufType::kF32, {count}, [factors](int64_t, int64_t, float* values) {
      std::copy(factors.begin(), factors.end(), values);
    });
  }

  const Architecture& a_;
  const GgufFacts& facts_;
  GgufWriter& to_;
};

int64_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
    default:
      return 0;
  }
}

void copy_rows(const at::Tensor& from, float* to) {
  const at::Tensor values = from.detach().to(at::kCPU, at::kFloat).contiguous();
  std::memcpy(to, values.data_ptr<float>(), static_cast<size_t>(values.numel()) * sizeof(float));
}

/// The rows of a parameter as the file has them.
GgufRows rows_of(const Parameter& parameter, const GgufName& name) {
  std::vector<int64_t> order;  // of the parameter's rows in the file
  if (name.interleaved_heads > 0) order = rows_in_file(parameter.sizes().front(), name.interleaved_heads);
  if (parameter.sizes().size() == 1) {
    return [parameter, order, added = name.has_one_added](int64_t, int64_t, float* values) {
      copy_rows(parameter.values(), values);
      if (added) std::for_each(values, values + parameter.numel(), [](float& value) { value += 1.0F; });
      if (order.empty()) return;
      const std::vector<float> own(values, values + parameter.numel());
      for (size_t i = 0; i < own.size(); ++i) values[i] = own[static_cast<size_t>(order[i])];
    };
  }
  return [parameter, order](int64_t begin, int64_t end, float* values) {
    const auto slice = [&](int64_t first, int64_t last) {
      return parameter.weight ? parameter.weight->rows(first, last) : parameter.vector.slice(0, first, last);
    };
    if (order.empty()) return copy_rows(slice(begin, end), values);
    const int64_t width = parameter.sizes().back();
    for (int64_t row = begin; row < end; ++row, values += width)
      copy_rows(slice(order[static_cast<size_t>(row)], order[static_cast<size_t>(row)] + 1), values);
  };
}

void add_tensors(Model& model, const GgufFacts& facts, GgufType type, GgufWriter& to) {
  const std::vector<Parameter> all = model.parameters();
  std::map<std::string, const Parameter*> parameters;
  std::set<std::string> unwritten;
  for (const Parameter& parameter : all) {
    parameters[parameter.name] = &parameter;
    unwritten.insert(parameter.name);
  }
  const std::vector<TiedName> ties = tied_names(model.architecture());
  for (const GgufName& name : gguf_names(model.config())) {
    auto found = parameters.find(name.parameter);
    if (found == parameters.end()) {
      const auto tie = std::find_if(ties.begin(), ties.end(),
                                    [&](const TiedName& tied) { return tied.name == name.parameter; });
      if (tie == ties.end()) refuse_model(fmt::format("a model without {}", name.parameter));
      if (!facts.needs_output) continue;  // the table of words serves
      found = parameters.find(tie->parameter);
    }
    const Parameter& parameter = *found->second;
    const std::vector<int64_t> shape = parameter.sizes();
    const bool is_exact =
        shape.size() == 1 || name.stored.starts_with("position_embd") || name.stored == "token_types.weight";
    to.add(name.stored, is_exact ? GgufType::kF32 : fitting_type(type, shape.back()), shape,
           rows_of(parameter, name));
    unwritten.erase(name.parameter);
  }
  if (!unwritten.empty()) refuse_model(fmt::format("where {} belongs", *unwritten.begin()));
}

bool same(double a, double b) {
  return std::abs(a - b) <= 1e-6 * std::max(std::abs(a), std::abs(b));
}

/// Of a reader of at most `longest` tokens.
int64_t effective_window(const AttentionShape& shape, int64_t longest) {
  return shape.window_left < 0 || shape.window_left + 1 >= longest ? -1 : shape.window_left;
}

bool same_norm(const NormSpec& a, const NormSpec& b) {
  return a.kind == b.kind && (a.kind == NormKind::kNone || same(a.eps, b.eps));
}

bool same_branch(const BranchSpec& a, const BranchSpec& b) {
  return same_norm(a.before, b.before) && same_norm(a.on_output, b.on_output) &&
         same_norm(a.after_sum, b.after_sum);
}

/// Numbers lie in files as float32.
bool same_all(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same);
}

bool same_rotary(const RotarySpec& a, const RotarySpec& b) {
  const bool is_long = !a.long_frequencies.empty();
  return same_all(a.frequencies, b.frequencies) && same_all(a.long_frequencies, b.long_frequencies) &&
         same(a.attention_factor, b.attention_factor) && (!is_long || a.original_length == b.original_length);
}

std::string block_difference(const BlockSpec& a, const BlockSpec& b, int64_t longest) {
  const AttentionShape &x = a.attention.shape, &y = b.attention.shape;
  if (x.heads != y.heads || x.kv_heads != y.kv_heads || x.head_dim != y.head_dim) return "its heads";
  if (!same(x.scale, y.scale)) return fmt::format("that scores are multiplied by {}", x.scale);
  if (!same(x.soft_cap, y.soft_cap)) return fmt::format("that scores are capped at {}", x.soft_cap);
  if (effective_window(x, longest) != effective_window(y, longest) || x.window_right != y.window_right)
    return fmt::format("its window of {} tokens", x.window_left + 1);
  if ((a.attention.rotary < 0) != (b.attention.rotary < 0)) return "whether it has rotary positions";
  if (a.attention.norms_all_heads != b.attention.norms_all_heads ||
      !same_norm(a.attention.q_norm, b.attention.q_norm) ||
      !same_norm(a.attention.k_norm, b.attention.k_norm))
    return "the norms of its queries and keys";
  if (!same_branch(a.attention_branch, b.attention_branch) ||
      !same_branch(a.feed_forward_branch, b.feed_forward_branch))
    return "its norms";
  if (a.activation != b.activation) return "its activation";
  return {};
}

}  // namespace

std::string gguf_difference(const Architecture& a, const Architecture& read) {
  if (a.blocks.size() != read.blocks.size()) return "its number of layers";
  if (!same(a.embeddings.scale, read.embeddings.scale)) return "the scale of its embeddings";
  if (!same(a.head.soft_cap, read.head.soft_cap))
    return fmt::format("that logits are capped at {}", a.head.soft_cap);
  for (size_t i = 0; i < a.blocks.size(); ++i) {
    std::string difference = block_difference(a.blocks[i], read.blocks[i], read.longest);
    const int x = a.blocks[i].attention.rotary, y = read.blocks[i].attention.rotary;
    if (difference.empty() && x >= 0 &&
        !same_rotary(a.rotaries[static_cast<size_t>(x)], read.rotaries[static_cast<size_t>(y)]))
      difference = "its rotary angles";
    if (!difference.empty()) return fmt::format("of layer {} {}", i, difference);
  }
  return {};
}

int64_t gguf_context(const Model& model) {
  const Family* family = find_family(model.config().model_type);
  return context_of(model.architecture(), family->gguf);
}

void export_model(Model& model, GgufType type, const std::string& name, GgufWriter& to) {
  if (model.task() != ModelTask::kCausalLm)
    refuse_model("what a classifier's head does; it holds language models");
  const Architecture& a = model.architecture();
  gguf_names(model.config());  // throws where there are none
  const GgufFacts& facts = find_family(model.config().model_type)->gguf;
  if (!facts.reads_output && !a.head.is_tied)
    refuse_model(fmt::format("an output layer of its own for `{}`", facts.architecture));
  to.set(gguf_key::kArchitecture, facts.architecture);
  to.set(gguf_key::kType, "model");
  if (!name.empty()) to.set(gguf_key::kName, name);
  Settings(a, facts, to).write();
  to.set_integer(gguf_key::kFileType, file_type(type));
  to.set_integer(gguf_key::kQuantizationVersion, gguf_key::kQuantizationVersionValue);
  add_tensors(model, facts, type, to);
}

}  // namespace msplora
