#include "federated/server_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/strict_json.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"

namespace msplora::detail {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr char kSuffix[] = ".safetensors";

std::optional<int64_t> round_of(const fs::path& file) {
  const std::string name = file.filename().string();
  if (!name.starts_with(kServerStatePrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  int64_t round = 0;
  const char* end = name.data() + name.size() - (sizeof kSuffix - 1);
  const auto [stop, error] = std::from_chars(name.data() + (sizeof kServerStatePrefix - 1), end, round);
  if (error != std::errc() || stop != end) return std::nullopt;
  return round;
}

std::vector<std::pair<int64_t, fs::path>> stored_rounds(const fs::path& directory) {
  std::vector<std::pair<int64_t, fs::path>> rounds;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(directory, code)) {
    if (const auto round = round_of(entry.path())) rounds.emplace_back(*round, entry.path());
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds;
}

json traffic_json(const Traffic& traffic) {
  return {traffic.messages, traffic.adapter, traffic.others, traffic.framing};
}

Traffic traffic_from(const json& from) {
  return {from.at(0).get<int64_t>(), from.at(1).get<int64_t>(), from.at(2).get<int64_t>(),
          from.at(3).get<int64_t>()};
}

json state_json(const ServerState& state) {
  json metrics = json::array();
  for (const auto& [name, value] : state.last_metrics) {
    metrics.push_back({name, std::isfinite(value) ? json(value) : json()});
  }
  json stacks = json::array();
  for (const ServerState::Stack& stack : state.stacks) stacks.push_back(stack.round);
  return {{"round", state.round},
          {"stacks", stacks},
          {"last_round", state.last_round},
          {"total_down", traffic_json(state.total_down)},
          {"total_up", traffic_json(state.total_up)},
          {"steps", state.steps},
          {"tokens", state.tokens},
          {"used_updates", state.used_updates},
          {"train_seconds", state.train_seconds},
          {"seconds", state.seconds},
          {"last_metrics", metrics}};
}

std::string merged_key(size_t pair, const char* factor) {
  return fmt::format("merged.{}.{}", pair, factor);
}

std::string stack_key(int64_t round, size_t pair, const char* factor) {
  return fmt::format("stack.{}.{}.{}", round, pair, factor);
}

std::vector<NamedTensor> state_tensors(const ServerState& state) {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < state.pairs.size(); ++i) {
    tensors.push_back({fmt::format("pair.{}.down", i), state.pairs[i].down});
    tensors.push_back({fmt::format("pair.{}.up", i), state.pairs[i].up});
  }
  for (const NamedTensor& other : state.others) tensors.push_back({"other." + other.name, other.tensor});
  for (size_t i = 0; i < state.merged.size(); ++i) {
    tensors.push_back({merged_key(i, "down"), state.merged[i].down});
    tensors.push_back({merged_key(i, "up"), state.merged[i].up});
  }
  for (const ServerState::Stack& stack : state.stacks) {
    for (size_t i = 0; i < stack.products.size(); ++i) {
      tensors.push_back({stack_key(stack.round, i, "down"), stack.products[i].down});
      tensors.push_back({stack_key(stack.round, i, "up"), stack.products[i].up});
    }
  }
  return tensors;
}

void read_numbers(const json& from, ServerState& state) {
  from.at("round").get_to(state.round);
  from.at("last_round").get_to(state.last_round);
  state.total_down = traffic_from(from.at("total_down"));
  state.total_up = traffic_from(from.at("total_up"));
  from.at("steps").get_to(state.steps);
  from.at("tokens").get_to(state.tokens);
  from.at("used_updates").get_to(state.used_updates);
  from.at("train_seconds").get_to(state.train_seconds);
  from.at("seconds").get_to(state.seconds);
  for (const auto& metric : from.at("last_metrics")) {
    state.last_metrics.emplace_back(metric.at(0).get<std::string>(),
                                    metric.at(1).is_null() ? std::nan("") : metric.at(1).get<double>());
  }
}

/// Copies, because the tensors of the file are views of its map.
void read_tensors(const SafetensorsFile& file, const std::vector<int64_t>& stack_rounds, ServerState& state) {
  const auto get = [&](const std::string& name) { return file.tensor(name).clone(); };
  for (size_t i = 0; i < state.pairs.size(); ++i) {
    state.pairs[i].down = get(fmt::format("pair.{}.down", i));
    state.pairs[i].up = get(fmt::format("pair.{}.up", i));
  }
  for (NamedTensor& other : state.others) other.tensor = get("other." + other.name);
  for (size_t i = 0; i < state.merged.size(); ++i) {
    state.merged[i] = {get(merged_key(i, "down")), get(merged_key(i, "up"))};
  }
  for (const int64_t round : stack_rounds) {
    ServerState::Stack stack{round, {}};
    for (size_t i = 0; i < state.pairs.size(); ++i) {
      stack.products.push_back({get(stack_key(round, i, "down")), get(stack_key(round, i, "up"))});
    }
    state.stacks.push_back(std::move(stack));
  }
}

}  // namespace

void save_server_state(const ServerState& state, const RunIdentity& identity, const fs::path& directory) {
  const json description = {{"format", kFormatVersion},
                            {"state", state_json(state)},
                            {"recipe", identity.recipe},
                            {"data_fingerprint", identity.data_fingerprint},
                            {"base_fingerprint", identity.base_fingerprint}};
  write_safetensors(directory / fmt::format("{}{}{}", kServerStatePrefix, state.round, kSuffix),
                    state_tensors(state), {{"federated", description.dump()}});
}

std::optional<StoredServerState> load_newest_server_state(const fs::path& directory,
                                                          const ServerState& like) {
  const auto rounds = stored_rounds(directory);
  if (rounds.empty()) return std::nullopt;
  StoredServerState stored;
  stored.path = rounds.back().second;
  const auto file = SafetensorsFile::open(stored.path);
  const auto text = file->metadata().find("federated");
  const json description = text == file->metadata().end()
                               ? json()
                               : parse_strict_json(text->second, stored.path.string() + ": federated");
  if (!description.is_object() || description.value("format", 0) != kFormatVersion) {
    throw Error(ErrorCode::kFormat, stored.path.string(),
                fmt::format("expected the state of a federated run of format {}", kFormatVersion));
  }
  try {
    stored.identity = {description.at("recipe"), description.at("data_fingerprint").get<uint64_t>(),
                       description.at("base_fingerprint").get<uint64_t>()};
    stored.state.pairs = like.pairs;
    stored.state.others = like.others;
    stored.state.merged.resize(like.merged.size());
    read_numbers(description.at("state"), stored.state);
    read_tensors(*file, description.at("state").at("stacks").get<std::vector<int64_t>>(), stored.state);
  } catch (const json::exception& problem) {
    throw Error(ErrorCode::kFormat, stored.path.string(),
                std::string("not the state of a federated run: ") + problem.what());
  }
  return stored;
}

void prune_server_states(const fs::path& directory, int64_t keep) {
  const auto rounds = stored_rounds(directory);
  for (size_t i = 0; i + static_cast<size_t>(keep) < rounds.size(); ++i) remove_path(rounds[i].second);
}

void append_round(const fs::path& directory, const nlohmann::ordered_json& round) {
  const fs::path path = directory / kRoundsFile;
  std::ofstream out(path, std::ios::app | std::ios::binary);
  out << round.dump() << "\n" << std::flush;
  if (!out) throw Error(ErrorCode::kIo, path.string(), "cannot write", "is the disk full?");
}

void keep_rounds(const fs::path& directory, int64_t last_round) {
  const fs::path path = directory / kRoundsFile;
  std::string kept;
  if (last_round > 0 && path_exists(path)) {
    std::istringstream lines(read_file(path));
    for (std::string line; std::getline(lines, line);) {
      const auto json = try_strict_json(line);
      if (!json || !json->is_object() || !json->contains("round")) continue;
      const auto& round = json->at("round");
      if (round.is_number_integer() && round.get<int64_t>() <= last_round) kept += line + "\n";
    }
  }
  write_file_atomically(path, kept);
}

}  // namespace msplora::detail
