#pragma once

#include <map>
#include <string>
#include <vector>

#include "msplora/io/safetensors.h"

namespace msplora {

/// The content of the file that write_safetensors() would write, for sending: 8 bytes and a header, then the
/// tensors.
std::string to_safetensors(const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& metadata = {});

}  // namespace msplora
