#include "msplora/generation/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <tuple>
#include <vector>

namespace msplora {
namespace {

/// Those of kFilters.
template <class Options>
auto filters(Options& options) {
  return std::tie(options.temperature, options.top_k, options.top_p, options.min_p, options.typical_p);
}

/// Those of them that are set, "temperature 0.7, top_k 50".
std::string filters_set(const GenerationOptions& options) {
  const GenerationOptions none;
  std::vector<std::string> set;
  const auto add = [&](const char* name, double value, double unset) {
    if (value != unset) set.push_back(fmt::format("{} {}", name, value));
  };
  add("temperature", options.temperature, none.temperature);
  add("top_k", static_cast<double>(options.top_k), static_cast<double>(none.top_k));
  add("top_p", options.top_p, none.top_p);
  add("min_p", options.min_p, none.min_p);
  add("typical_p", options.typical_p, none.typical_p);
  return fmt::format("{}", fmt::join(set, ", "));
}

/// Why beams exclude drawing, with what asks for it.
void refuse_drawn_beams(const GenerationOptions& options, const std::string& place, ErrorList& errors) {
  const std::string drawing = options.has_filters() ? filters_set(options) : "do_sample";
  errors.add(
      place + "num_beams",
      fmt::format("{} beams and {} exclude each other: beams are not drawn", options.num_beams, drawing),
      fmt::format("num_beams: 1 draws; beams go without {}", drawing));
}

}  // namespace

bool GenerationOptions::has_filters() const {
  const GenerationOptions none;
  return filters(*this) != filters(none);
}

void GenerationOptions::leave_out_filters() {
  const GenerationOptions none;
  filters(*this) = filters(none);
}

void check_generation(const GenerationOptions& options, const std::string& place, ErrorList& errors) {
  if (options.min_new_tokens > options.max_new_tokens) {
    errors.add(
        place + "min_new_tokens",
        fmt::format("{} is more than max_new_tokens, {}", options.min_new_tokens, options.max_new_tokens),
        fmt::format("max_new_tokens of at least {}, or fewer min_new_tokens", options.min_new_tokens));
  }
  // What draws is named once, and beams are what it is beside.
  if (options.num_beams > 1 && (options.do_sample || options.has_filters())) {
    refuse_drawn_beams(options, place, errors);
  } else if (options.has_filters() && !options.do_sample) {
    errors.add(
        place + "do_sample",
        fmt::format("{} acts only where tokens are drawn, and do_sample is false", filters_set(options)),
        "do_sample: true, or leave it out");
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty()) errors.add(place + "stop", "an empty string would end every text at once");
  }
  for (const int64_t id : options.eos_token_id) {
    if (id < 0) errors.add(place + "eos_token_id", fmt::format("{} is no token", id));
  }
}

}  // namespace msplora
