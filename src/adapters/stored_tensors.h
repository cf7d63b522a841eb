#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"

namespace msplora::detail {

/// A tensor of an adapter file under the name it has in memory.
struct StoredTensor {
  std::string key;  // its name in the file, for messages
  at::Tensor tensor;
};

/// Copies the tensors into the adapter's trainable ones and into `more`,
/// converting to their dtype. Checks everything first, so that nothing changes on failure. Throws
/// Error{kModel} listing together missing, mis-shaped and unexpected tensors, Error{kNumerics} naming tensors
/// that hold NaN or infinity. `key_of` spells a trainable's name as the file would, for the list of missing
/// ones.
void fill_trainable(const Adapter& adapter, const std::vector<NamedTensor>& more,
                    const std::map<std::string, StoredTensor>& stored, const std::filesystem::path& file,
                    const std::function<std::string(const std::string&)>& key_of);

/// A title, a count and the entries, at most 20 of them; "" when there are none.
std::string list_entries(const std::string& title, const std::vector<std::string>& entries);

/// Throws Error{kIo} when the file is missing, Error{kFormat} when it is no JSON object.
nlohmann::ordered_json read_json_object(const std::filesystem::path& path);

/// 2-space indented, with a final newline; atomic.
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

}  // namespace msplora::detail
