#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora::testing {

/// Shapes of an encoder's sites under RoBERTa's names, with its classification head.
std::vector<Site> roberta_sites(int64_t layers, int64_t hidden, int64_t wide = 0);
/// Shapes of a decoder's sites under LLaMA's names.
std::vector<Site> llama_sites(int64_t layers, int64_t hidden, int64_t wide = 0);

/// Linear layers without a network around them: what an adapter sees of a model.
class FakeModel {
 public:
  struct Options {
    int64_t layers = 12;
    int64_t hidden = 16;
    int64_t wide = 32;
    int64_t labels = 3;
    at::ScalarType dtype = at::kFloat;  // of the blocks' matrices
    at::ScalarType bias_dtype = at::kFloat;
    uint64_t seed = 1;
    bool llama = false;  // no biases, no head
    int64_t heads = 4;
    int64_t kv_heads = 0;  // 0: as many; narrows k_proj and v_proj of llama
  };
  explicit FakeModel(const Options& options);
  FakeModel() : FakeModel(Options()) {}

  AdapterTarget target() const;
  std::vector<Parameter> parameters() const { return parameters_; }
  at::Tensor parameter(const std::string& name) const;
  Linear& linear(const std::string& path);

 private:
  Options options_;
  std::vector<std::unique_ptr<Linear>> linears_;
  std::vector<Site> sites_;
  std::vector<Parameter> parameters_;
};

/// Gives every trainable tensor of the adapter numbers that depend on its name.
void randomize(const Adapter& adapter, double scale = 0.1);

/// A tensor of the adapter: trainable, or part of its state.
at::Tensor tensor_named(const Adapter& adapter, const std::string& name);

/// The summed rank of the update of every adapted query, in the order of the sites.
std::vector<int64_t> query_ranks(const Adapter& adapter);

inline ForwardContext training_context(uint64_t seed = 0) {
  ForwardContext context;
  context.training = true;
  context.seed = seed;
  return context;
}

}  // namespace msplora::testing
