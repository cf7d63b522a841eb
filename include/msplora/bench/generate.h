#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include "msplora/bench/timings.h"
#include "msplora/models/model_config.h"

namespace msplora {

/// A causal language model that reads drawn prompts and writes, for measuring.
struct GenerateBenchOptions {
  ModelConfig model;
  std::filesystem::path weights;  // of a checkpoint; empty: they are drawn
  at::ScalarType dtype = at::kFloat;
  int64_t texts = 1;           // written together
  int64_t prompt = 512;        // tokens of each prompt, read in one pass
  int64_t generated = 64;      // tokens of each text
  bool draws = false;          // tokens are drawn with top_p 0.95, else the likeliest is taken
  int64_t rounds = 3;          // of prompt and text
  bool measures_roofs = true;  // after each round
  uint64_t seed = 1;
};

struct GenerateBenchResult {
  int64_t prompt_tokens = 0;  // of all texts
  int64_t texts = 0;
  double ready_seconds = 0.0;  // from the files to the first token after a prompt of one
  Timings prompts;             // from the ids of all prompts to the first token of each text
  Timings tokens;              // from one token of all texts to the next, the first not counted
  /// Products that reading the prompts takes, the head for the last token of each alone.
  double prompt_flops = 0.0;
  /// Read by the products and the attention of one token of all texts, at the middle of the texts.
  double weight_bytes = 0.0, cache_bytes = 0.0;
  double roof_flops_per_second = 0.0;  // of the fastest product of that many rows; 0: not measured
  double read_bytes_per_second = 0.0;  // of plain reading

  double prompt_tokens_per_second() const { return static_cast<double>(prompt_tokens) / prompts.median(); }
  double tokens_per_second() const { return static_cast<double>(texts) / tokens.median(); }
  /// Of the medians.
  double roof_share() const { return prompt_flops / prompts.median() / roof_flops_per_second; }
  double read_share() const { return (weight_bytes + cache_bytes) / tokens.median() / read_bytes_per_second; }
};

/// Throws Error{kUsage} for a model that does not write texts or takes fewer tokens.
GenerateBenchResult bench_generate(const GenerateBenchOptions& options);

}  // namespace msplora
