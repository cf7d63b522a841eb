#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/models/architecture.h"

namespace msplora::detail {

/// Numbers that are allowed.
struct RealRange {
  double min;
  double max;
  bool min_included;
  const char* text;
};
inline constexpr RealRange kPositive = {0.0, 1e300, false, "a positive number"};
inline constexpr RealRange kNonNegative = {0.0, 1e300, true, "a non-negative number"};
inline constexpr RealRange kProbability = {0.0, 1.0, true, "a probability of at least 0 and below 1"};

/// Larger sizes are mistakes; the bound keeps products of two within 64 bits.
inline constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;

/// An integer as int64, values above its range as its maximum.
int64_t saturated(const nlohmann::json& value);

/// Whether there is a window: 4096 unless sliding_window says otherwise (Mistral), the one that it gives
/// (Phi-3), or the first if use_sliding_window says so (Qwen).
enum class WindowUse { kAlways, kIfGiven, kIfUsed };

/// What a family says of rotary positions where config.json does not.
struct RotaryDefaults {
  double theta = 10000.0;
  std::string kind = {};        // of the entry of rope_parameters that holds for layers of one kind
                                // ("sliding_attention"); "": it is not divided
  bool may_be_partial = false;  // partial_rotary_factor turns a part of each head alone
  int64_t original_length = 0;  // original_max_position_embeddings; 0: max_position_embeddings
};

/// Reads the keys of a config.json for the families. A key that is missing or null takes its default, as in
/// Hugging Face; what is wrong is collected, each problem once, and 0 or the default is returned.
class ConfigReader {
 public:
  /// `where` names the file in messages; it and `source` must outlive the reader.
  ConfigReader(const nlohmann::json& source, const std::string& where);

  bool type_is(const char* model_type) const;

  int64_t size(const std::string& key, std::optional<int64_t> fallback = std::nullopt, int64_t min = 1);
  double real(const std::string& key, double fallback, const RealRange& range = kPositive);
  /// A probability of dropout; all of them have one value where `set_dropout` gave it.
  double dropout(const std::string& key, double fallback);
  std::string text(const std::string& key, const std::string& fallback);
  bool flag(const std::string& key, bool fallback);
  /// An id below vocab_size; negative ones count as none (older Llama files).
  std::optional<int64_t> token(const std::string& key, std::optional<int64_t> fallback);
  kernels::Activation activation(const std::string& key, const std::string& fallback);
  /// A number of layers: a size that no real model exceeds, so that a wrong one cannot exhaust memory.
  int64_t depth(const std::string& key);
  /// "PREFIX.0", "PREFIX.1", ...: as many as the key says.
  std::vector<std::string> layers(const std::string& key, const std::string& prefix);
  /// Heads that share the width evenly, all keys and values of their own.
  AttentionShape even_heads(const std::string& key, int64_t width);
  /// Heads of decoders: num_attention_heads, num_key_value_heads and head_dim, causal.
  /// `default_head_dim` 0: the width divided by the heads.
  AttentionShape grouped_heads(int64_t width, int64_t default_head_dim, bool needs_groups);

  /// From rope_theta and rope_scaling or rope_parameters, for heads of this width.
  RotarySpec rotary(int64_t head_dim, const RotaryDefaults& defaults = {});
  /// The window of the layers that slide; 0: there is none.
  int64_t sliding_window(WindowUse use);
  /// Qwen's rule for layers that slide.
  std::vector<bool> layers_from_max_window_layers(int64_t num_layers);
  /// Of each layer: tokens that attention looks back over, the token itself included; 0: all. layer_types
  /// says which layers have the window, or `slides` where it is absent; with `all_slide` it must not except
  /// one.
  std::vector<int64_t> windows(int64_t window, const std::vector<bool>& slides, bool all_slide = false);

  int64_t num_labels() const { return num_labels_; }
  void set_num_labels(int64_t count) { num_labels_ = count; }
  void set_dropout(std::optional<double> p) { dropout_ = p; }

  /// Keys that must be false or absent, as the family would compute something else.
  void refuse_flags(const std::vector<std::string>& keys);

  /// Null when missing or null.
  const nlohmann::json* find(const std::string& key) const;
  const nlohmann::json& source() const { return source_; }
  void wrong(const std::string& key, const std::string& expected, const nlohmann::json& value,
             const std::string& hint = {});
  void problem(const std::string& key, const std::string& message, const std::string& hint = {});
  /// Two keys with one meaning: warns where they differ which one counts, once for each file.
  void say_if_different(const std::string& used, const std::string& ignored) const;

  const std::vector<Error>& problems() const { return problems_; }
  /// Error{kConfig}: one problem as "file: key: ...", several as a list under the file's name.
  void throw_if_any() const { throw_problems(problems_, where_); }
  static void throw_problems(const std::vector<Error>& problems, const std::string& where);

 private:
  class RotaryKeys;
  void scale_rotary(RotarySpec& spec, const RotaryKeys& keys, double theta);

  const nlohmann::json& source_;
  const std::string& where_;
  std::string model_type_;
  std::vector<std::string> keys_;
  int64_t num_labels_ = 2;
  std::optional<double> dropout_;
  std::vector<Error> problems_;
};

}  // namespace msplora::detail
