#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "msplora/federated/federation.h"

namespace msplora::detail {

/// What the state belongs to.
struct RunIdentity {
  nlohmann::json recipe;  // may be null
  uint64_t data_fingerprint = 0;
  uint64_t base_fingerprint = 0;
};

/// round-N.safetensors: the tensors of the state, and the rest as JSON in the metadata. One file, written
/// beside and renamed, so it is there completely or not at all.
void save_server_state(const ServerState& state, const RunIdentity& identity,
                       const std::filesystem::path& directory);

struct StoredServerState {
  ServerState state;
  RunIdentity identity;
  std::filesystem::path path;
};
/// The newest state in the directory; std::nullopt when there is none. Names, order and scalings of the pairs
/// are those of `like`. Throws Error{kFormat} when the file is damaged.
std::optional<StoredServerState> load_newest_server_state(const std::filesystem::path& directory,
                                                          const ServerState& like);

/// Removes all but the newest `keep` states.
void prune_server_states(const std::filesystem::path& directory, int64_t keep);

/// Adds the round to rounds.jsonl.
void append_round(const std::filesystem::path& directory, const nlohmann::ordered_json& round);
/// Drops the lines of rounds after `last_round` and a broken last one.
void keep_rounds(const std::filesystem::path& directory, int64_t last_round);

}  // namespace msplora::detail
