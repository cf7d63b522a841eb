#include "msplora/bench/timings.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "msplora/core/stopwatch.h"
#include "msplora/kernels/kernels.h"

namespace msplora {
namespace {

/// The value of the first line "KEY : VALUE" of /proc/cpuinfo; "" where there is none.
std::string processor_field(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    const size_t end_of_key = line.find_last_not_of(" \t", colon - 1);
    if (end_of_key + 1 != key.size()) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

}  // namespace

double Timings::best() const {
  return seconds.empty() ? 0.0 : *std::min_element(seconds.begin(), seconds.end());
}

double Timings::median() const {
  if (seconds.empty()) return 0.0;
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
}

double time_of(const std::function<void()>& call) {
  const Stopwatch watch;
  call();
  return watch.seconds();
}

Machine this_machine() {
  Machine machine;
  const std::string name = processor_field("model name"), family = processor_field("cpu family");
  machine.processor = name.empty() ? "unknown processor" : name;
  if (!family.empty())
    machine.processor += fmt::format(" (family {}, model {})", family, processor_field("model"));
  machine.threads = at::get_num_threads();
  machine.isa = kernels::to_string(kernels::active_isa());
  const std::string flags = " " + processor_field("flags") + " ";
  machine.has_bf16_products =
      flags.find(" avx512_bf16 ") != std::string::npos || flags.find(" amx_bf16 ") != std::string::npos;
  return machine;
}

double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1.0;
}

}  // namespace msplora
