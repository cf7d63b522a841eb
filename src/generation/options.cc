#include "msplora/generation/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tuple>

namespace msplora {
namespace {

/// Those of kFilters.
template <class Options>
auto filters(Options& options) {
  return std::tie(options.temperature, options.top_k, options.top_p, options.min_p, options.typical_p);
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
    errors.add(place + "min_new_tokens", fmt::format("{} is more than max_new_tokens, {}",
                                                     options.min_new_tokens, options.max_new_tokens));
  }
  if (options.do_sample && options.num_beams > 1)
    errors.add(place + "num_beams", "beams are not drawn", "do_sample: false, or num_beams: 1");
  if (options.has_filters() && !options.do_sample) {
    errors.add(place + "do_sample",
               fmt::format("{} are for drawing tokens", fmt::join(GenerationOptions::kFilters, ", ")),
               "do_sample: true");
  }
  for (const std::string& stop : options.stop) {
    if (stop.empty()) errors.add(place + "stop", "an empty string would end every text at once");
  }
  for (const int64_t id : options.eos_token_id) {
    if (id < 0) errors.add(place + "eos_token_id", fmt::format("{} is no token", id));
  }
}

}  // namespace msplora
