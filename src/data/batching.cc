#include "msplora/data/batching.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "fmt/format.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {

namespace {

constexpr double kMostDraws = 1 << 30;  // an epoch's order takes four bytes of each

// Limits come from people; their product must not wrap around.
uint64_t saturating_product(uint64_t a, uint64_t b) {
  return a > std::numeric_limits<uint64_t>::max() / b ? std::numeric_limits<uint64_t>::max() : a * b;
}

}  // namespace

void BatchList::add(std::span<const uint32_t> batch) {
  indices_.insert(indices_.end(), batch.begin(), batch.end());
  offsets_.push_back(indices_.size());
}

/// The draws of an epoch among those of all epochs, which pass over the members again and again.
std::pair<uint64_t, uint64_t> BatchPlan::Group::drawn(uint64_t epoch) const {
  const double each = weight * static_cast<double>(members.size());
  const auto until = [each](uint64_t epochs) {
    return static_cast<uint64_t>(std::llround(each * static_cast<double>(epochs)));
  };
  return {until(epoch), until(epoch + 1)};
}

size_t BatchPlan::count_sequences(uint64_t epoch) const {
  if (groups_.empty()) return lengths_.size();
  size_t count = 0;
  for (const Group& group : groups_) {
    const auto [begin, end] = group.drawn(epoch);
    count += end - begin;
  }
  return count;
}

std::vector<uint32_t> BatchPlan::drawn(uint64_t epoch) const {
  std::vector<uint32_t> order;
  if (groups_.empty()) {
    order.resize(lengths_.size());
    std::iota(order.begin(), order.end(), 0U);
    return order;
  }
  order.reserve(count_sequences(epoch));
  for (size_t g = 0; g < groups_.size(); ++g) {
    const auto [begin, end] = groups_[g].drawn(epoch);
    const uint64_t size = groups_[g].members.size();
    for (uint64_t pass = begin / std::max<uint64_t>(1, size); pass * size < end; ++pass) {
      std::vector<uint32_t> members = groups_[g].members;
      if (options_.shuffle)
        RandomStream(mix_seed(mix_seed(options_.seed, g), pass), "draws").shuffle(members);
      const uint64_t first = std::max(begin, pass * size), last = std::min(end, (pass + 1) * size);
      for (uint64_t i = first; i < last; ++i) order.push_back(members[i - pass * size]);
    }
  }
  return order;
}

void BatchPlan::group(const DrawWeights& draws) {
  if (draws.groups.size() != lengths_.size() ||
      std::any_of(draws.groups.begin(), draws.groups.end(),
                  [&](uint32_t group) { return group >= draws.weights.size(); }))
    throw Error(ErrorCode::kUsage, "batching", "expected a group with a weight for every sequence");
  groups_.resize(draws.weights.size());
  for (size_t i = 0; i < lengths_.size(); ++i)
    groups_[draws.groups[i]].members.push_back(static_cast<uint32_t>(i));
  double least = 0, most = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const double weight = draws.weights[g], drawn = weight * static_cast<double>(groups_[g].members.size());
    if (!std::isfinite(weight) || weight <= 0)
      throw Error(ErrorCode::kConfig, "data.train",
                  fmt::format("expected weights above 0, found {}", weight));
    groups_[g].weight = weight;
    least += std::floor(drawn);
    most += drawn;
  }
  if (most > kMostDraws) {
    throw Error(ErrorCode::kConfig, "data.train",
                fmt::format("expected weights that give epochs of at most {:.0f} examples, found {:.3g}",
                            kMostDraws, most),
                "lower them: only their ratios matter, and train.epochs repeats");
  }
  if (least < 1)
    throw Error(ErrorCode::kConfig, "data.train", "the weights leave epochs without an example", "raise one");
}

BatchPlan::BatchPlan(std::vector<uint32_t> lengths, const BatchOptions& options, const DrawWeights& draws)
    : lengths_(std::move(lengths)), options_(options) {
  if (options_.batch_size < 0 || options_.token_budget < 0 || options_.window_batches < 1 ||
      (options_.batch_size == 0 && options_.token_budget == 0)) {
    throw Error(
        ErrorCode::kConfig, "batching",
        fmt::format("expected a batch size or a token budget above 0 and a window of at least 1 batch, found "
                    "batch size {}, token budget {}, window {}",
                    options_.batch_size, options_.token_budget, options_.window_batches));
  }
  if (lengths_.size() > std::numeric_limits<uint32_t>::max()) {
    throw Error(ErrorCode::kUsage, "batching",
                fmt::format("{} sequences are too many for one plan", lengths_.size()));
  }
  for (const uint32_t length : lengths_) tokens_ += length;
  if (!draws.groups.empty()) group(draws);
  for (size_t i = 0; i < lengths_.size(); ++i) {
    const double weight = groups_.empty() ? 1.0 : draws.weights[draws.groups[i]];
    epoch_sequences_ += weight;
    epoch_tokens_ += weight * lengths_[i];
  }
  options_.window_batches =
      std::min(options_.window_batches, std::max<int64_t>(1, least_batches() / kFewestWindows));
}

int64_t BatchPlan::least_batches() const {
  const auto parts = [](double all, int64_t part) { return part > 0 ? static_cast<int64_t>(all) / part : 0; };
  return std::max(parts(epoch_sequences_, options_.batch_size), parts(epoch_tokens_, options_.token_budget));
}

void BatchPlan::cut(std::span<const uint32_t> order, BatchList& out) const {
  const auto limit = [](int64_t value) {
    return value > 0 ? static_cast<uint64_t>(value) : std::numeric_limits<uint64_t>::max();
  };
  const uint64_t most_sequences = limit(options_.batch_size), most_tokens = limit(options_.token_budget);
  size_t begin = 0;
  uint64_t tokens = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const uint64_t length = lengths_[order[i]];
    if (i > begin && (i - begin >= most_sequences || tokens + length > most_tokens)) {
      out.add(order.subspan(begin, i - begin));
      begin = i;
      tokens = 0;
    }
    tokens += length;
  }
  if (begin < order.size()) out.add(order.subspan(begin));
}

// A window holds as much as window_batches full batches; whole batches of batch_size, so that only the last
// of the epoch is short.
size_t BatchPlan::window_end(std::span<const uint32_t> order, size_t begin) const {
  size_t end = order.size();
  const auto batches = static_cast<uint64_t>(options_.window_batches);
  if (options_.batch_size > 0) {
    const uint64_t most = saturating_product(batches, static_cast<uint64_t>(options_.batch_size));
    if (most < end - begin) end = begin + most;
  }
  if (options_.token_budget > 0) {
    const uint64_t budget = saturating_product(batches, static_cast<uint64_t>(options_.token_budget));
    uint64_t tokens = 0;
    for (size_t i = begin; i < end; ++i) {
      tokens += lengths_[order[i]];
      if (tokens > budget && i > begin) return i;
    }
  }
  return end;
}

BatchList BatchPlan::epoch(uint64_t epoch) const {
  std::vector<uint32_t> order = drawn(epoch);
  RandomStream random(mix_seed(options_.seed, epoch), "batches");
  if (options_.shuffle) random.shuffle(order);
  BatchList result;
  if (!options_.bucket) {
    cut(order, result);
    return result;
  }
  for (size_t begin = 0; begin < order.size();) {
    const size_t end = window_end(order, begin);
    const std::span<uint32_t> window(order.data() + begin, end - begin);
    std::stable_sort(window.begin(), window.end(),
                     [this](uint32_t a, uint32_t b) { return lengths_[a] < lengths_[b]; });
    BatchList batches;
    cut(window, batches);
    std::vector<size_t> sequence(batches.size());
    for (size_t i = 0; i < sequence.size(); ++i) sequence[i] = i;
    if (options_.shuffle) random.shuffle(sequence);
    for (const size_t i : sequence) result.add(batches[i]);
    begin = end;
  }
  return result;
}

BatchList BatchPlan::sequential() const {
  std::vector<uint32_t> order(lengths_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  std::stable_sort(order.begin(), order.end(),
                   [this](uint32_t a, uint32_t b) { return lengths_[a] > lengths_[b]; });
  BatchList result;
  cut(order, result);
  return result;
}

size_t BatchPlan::count_batches(uint64_t epochs) const {
  if (options_.token_budget == 0) {
    const auto size = static_cast<size_t>(options_.batch_size);
    if (groups_.empty()) return static_cast<size_t>(epochs) * ((lengths_.size() + size - 1) / size);
    size_t batches = 0;
    for (uint64_t e = 0; e < epochs; ++e) batches += (count_sequences(e) + size - 1) / size;
    return batches;
  }
  size_t count = 0;
  for (uint64_t e = 0; e < epochs; ++e) count += epoch(e).size();
  return count;
}

const BatchList& EpochBatches::of(int64_t epoch) {
  if (epoch_ != epoch) {
    batches_ = plan_.epoch(static_cast<uint64_t>(epoch));
    epoch_ = epoch;
  }
  return batches_;
}

int64_t count_labels(const Batch& batch) {
  return std::count_if(batch.labels.begin(), batch.labels.end(),
                       [](int64_t label) { return label != kIgnoredLabel; });
}

}  // namespace msplora
