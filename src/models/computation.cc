#include "msplora/models/computation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "msplora/core/dump_json.h"

namespace msplora {
namespace {

using nlohmann::json;

constexpr const char* kLongest = "max_position_embeddings";
constexpr const char* kWindows[] = {"window_left", "window_right"};

const char* name_of(kernels::Activation activation) {
  switch (activation) {
    case kernels::Activation::kGelu:
      return "gelu";
    case kernels::Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case kernels::Activation::kRelu:
      return "relu";
    case kernels::Activation::kSilu:
      return "silu";
    case kernels::Activation::kTanh:
      return "tanh";
  }
  return "";
}

const char* name_of(Pool pool) {
  switch (pool) {
    case Pool::kFirst:
      return "first";
    case Pool::kLast:
      return "last";
    case Pool::kMean:
      return "mean";
    case Pool::kEach:
      return "each";
  }
  return "";
}

/// One value where all of a list are the same.
json once(const json& values) {
  const bool are_equal = !values.empty() && std::all_of(values.begin(), values.end(), [&](const json& value) {
    return value == values.front();
  });
  return are_equal ? values.front() : values;
}

/// The sum of logarithms changes with every one of them.
double log_sum(const std::vector<double>& frequencies) {
  double sum = 0.0;
  for (const double frequency : frequencies) sum += std::log(frequency);
  return sum;
}

/// Collects values of layers by name.
class Collector {
 public:
  void add(const char* name, json value) { values_[name].push_back(std::move(value)); }
  void add_norm(const NormSpec& norm) {
    if (!norm) return;
    add("norm_eps", norm.eps);
  }
  void add_block(const BlockSpec& block) {
    const AttentionShape& shape = block.attention.shape;
    add("hidden_act", name_of(block.activation));
    add("num_attention_heads", shape.heads);
    add("num_key_value_heads", shape.kv_heads);
    add("head_dim", shape.head_dim);
    add("attention_scale", shape.used_scale());
    add("attention_soft_cap", shape.soft_cap);
    add(kWindows[0], shape.window_left);
    add(kWindows[1], shape.window_right);
    add("rope_of_layer", block.attention.rotary);
    for (const BranchSpec* branch : {&block.attention_branch, &block.feed_forward_branch}) {
      add_norm(branch->before);
      add_norm(branch->on_output);
      add_norm(branch->after_sum);
    }
    add_norm(block.attention.q_norm);
    add_norm(block.attention.k_norm);
  }
  void add_rotary(const RotarySpec& rotary) {
    add("rope_theta", rotary.theta);
    add("rope_dimensions", 2 * rotary.frequencies.size());
    add("rope_frequencies", log_sum(rotary.frequencies));
    add("rope_attention_factor", rotary.attention_factor);
    if (rotary.long_frequencies.empty()) return;
    add("rope_long_frequencies", log_sum(rotary.long_frequencies));
    add("rope_original_length", rotary.original_length);
  }
  json take() {
    json all = json::object();
    for (const auto& [name, values] : values_.items()) all[name] = once(values);
    return all;
  }

 private:
  json values_ = json::object();
};

bool is_near(const json& a, const json& b) {
  constexpr double kRounding = 1e-5;  // of numbers that files keep in float32
  if (a.is_number() && b.is_number()) {
    const double x = a.get<double>(), y = b.get<double>();
    return std::abs(x - y) <= kRounding * std::max(std::abs(x), std::abs(y));
  }
  if (a.is_array() && b.is_array()) return std::equal(a.begin(), a.end(), b.begin(), b.end(), is_near);
  return a == b;
}

/// -1 where a window holds all of a text of so many tokens.
json within(const json& window, int64_t longest) {
  if (window.is_array()) {
    json all = json::array();
    for (const json& one : window) all.push_back(within(one, longest));
    return once(all);
  }
  if (!window.is_number_integer()) return window;
  return longest > 0 && window.get<int64_t>() >= longest - 1 ? json(-1) : window;
}

int64_t longest_of(const json& computation) {
  const json longest = computation.value(kLongest, json());
  return longest.is_number_integer() ? longest.get<int64_t>() : 0;
}

}  // namespace

json computation_of(const Architecture& architecture) {
  Collector all;
  all.add(kLongest, architecture.longest);
  const EmbeddingSpec& embeddings = architecture.embeddings;
  all.add("embedding_scale", embeddings.scale);
  if (embeddings.position_rows > 0) all.add("first_position", embeddings.position_offset);
  all.add_norm(embeddings.norm);
  for (const BlockSpec& block : architecture.blocks) all.add_block(block);
  for (size_t i = 0; !architecture.order.empty() && i < architecture.order.size(); ++i)
    all.add("order_of_layers", architecture.order[i]);
  for (const RotarySpec& rotary : architecture.rotaries) all.add_rotary(rotary);
  if (const RelativeSpec& relative = architecture.relative) {
    all.add("relative_terms", json::array({relative.has_keys, relative.has_queries}));
    json buckets = json::array();
    // Far ones are all that the rule for buckets changes.
    for (size_t i = 0; i < relative.bucket_of.size(); i += 16) buckets.push_back(relative.bucket_of[i]);
    all.add("relative_buckets", buckets);
    all.add_norm(relative.norm);
  }
  if (const ConvolutionSpec& convolution = architecture.convolution) {
    all.add("conv_act", name_of(convolution.activation));
    all.add_norm(convolution.norm);
  }
  all.add_norm(architecture.final_norm);
  for (const HeadStage& stage : architecture.head.stages) {
    if (stage.activation) all.add("head_act", name_of(*stage.activation));
    all.add_norm(stage.norm);
  }
  all.add("pooling", name_of(architecture.head.pool));
  all.add("final_soft_cap", architecture.head.soft_cap);
  return all.take();
}

std::vector<std::string> computation_differences(const json& there, const json& here) {
  std::vector<std::string> differences;
  if (!there.is_object() || !here.is_object()) return differences;
  const int64_t longest = std::min(longest_of(there), longest_of(here));
  for (const auto& [name, value] : there.items()) {
    const auto other = here.find(name);
    if (other == here.end() || name == kLongest) continue;
    const bool is_window = name == kWindows[0] || name == kWindows[1];
    if (is_window ? within(value, longest) == within(*other, longest) : is_near(value, *other)) continue;
    differences.push_back(
        fmt::format("{}: {} there, {} here", name, json_excerpt(value), json_excerpt(*other)));
  }
  return differences;
}

}  // namespace msplora
