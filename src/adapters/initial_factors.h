#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "msplora/nn/linear.h"

namespace msplora::detail {

/// A [r, in] and B [out, r] before training.
struct Factors {
  at::Tensor down, up;
};

struct FactorRequest {
  std::string init;       // AdapterConfig::init
  std::string down_name;  // names the random numbers
  int64_t rank = 0;
  double scaling = 1.0;
  uint64_t seed = 0;
};

/// Initial factors as PEFT's init_lora_weights makes them, in float32 (float64 beside a model in float64):
///   default    A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0 (Kaiming with a = sqrt 5)
///   gaussian   A ~ N(0, (1/r)²), B = 0
///   pissa      A = sqrt(S_r / s) V_rᵀ, B = U_r sqrt(S_r / s), W = U S Vᵀ (arXiv 2404.02948)
///   olora      A = the first r rows of R, B = the first r columns of Q, W = Q R (arXiv 2406.01775)
///   orthogonal A = (X Q_o)ᵀ / 10, B = Yᵀ Q_e / 10 with X, Y normal and Q_o, Q_e the odd and even rows of a
///              random orthogonal matrix: B A = 0 though neither factor is; r is even
/// Those of a table of words, as PEFT's: A = 0, B ~ N(0, 1) for default and gaussian.
/// For pissa and olora the update is s (B A - B0 A0) with these as A0 and B0.
Factors initial_factors(const FactorRequest& request, const Site& site);

/// Whether the factors of `init` are parts of the weight, to be subtracted again.
bool is_weight_init(const std::string& init);

/// Uninitialised shapes of initial_factors, as zeros.
Factors zero_factors(int64_t rank, const Site& site);

}  // namespace msplora::detail
