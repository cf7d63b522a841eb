#pragma once

#include <string>

#include "msplora/federated/options.h"

namespace msplora::detail {

/// Adds what cannot work together, without looking at model or data.
void check_federated_options(const FederatedOptions& options, const AdapterConfig& adapter,
                             const TrainOptions& train, ErrorList& errors, const std::string& where);

}  // namespace msplora::detail
