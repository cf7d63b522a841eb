#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace msplora {

/// Seconds of repetitions of one thing. On a shared machine the smallest says what the code can do, the
/// median what one gets.
struct Timings {
  std::vector<double> seconds;

  double best() const;    // 0 when there is none
  double median() const;  // of an even number: the mean of the middle two
};

/// Seconds that one call takes.
double time_of(const std::function<void()>& call);

/// The machine that numbers were measured on.
struct Machine {
  std::string processor;           // "AMD EPYC (family 26, model 2)"
  int threads = 0;                 // that libtorch and the kernels use
  std::string isa;                 // of the kernels
  bool has_bf16_products = false;  // AVX512_BF16 or AMX
};
Machine this_machine();

/// Runnable processes, mean of the last minute; below 0 where the system does not tell.
double load_average();

}  // namespace msplora
