#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "msplora/data/batch.h"

namespace msplora {

/// How sequences are grouped into batches. Both limits hold when both are given.
struct BatchOptions {
  int64_t batch_size = 0;    // most sequences in a batch; 0: no limit
  int64_t token_budget = 0;  // most tokens in a batch; 0: no limit. A longer sequence gets a batch of its own
  bool shuffle = true;
  bool bucket = true;           // group similar lengths
  int64_t window_batches = 50;  // batches whose sequences are sorted by length together, if data are many
  uint64_t seed = 0;
};

/// How often an epoch draws each sequence: those of group g come up weights[g] times. Of a weight that is no
/// whole number the rest is drawn so that all sequences of the group have their turns: at 0.5, an epoch has
/// one half of them (to the row), the next one the other half.
struct DrawWeights {
  std::vector<uint32_t> groups;  // of each sequence; empty: an epoch is each sequence once
  std::vector<double> weights;   // of each group, above 0
};

/// The batches of one pass over the data: indices of the sequences.
class BatchList {
 public:
  size_t size() const noexcept { return offsets_.size() - 1; }
  std::span<const uint32_t> operator[](size_t batch) const {
    return {indices_.data() + offsets_[batch], offsets_[batch + 1] - offsets_[batch]};
  }
  void add(std::span<const uint32_t> batch);

 private:
  std::vector<uint32_t> indices_;
  std::vector<size_t> offsets_ = {0};
};

/// Groups sequences of known lengths into batches.
///
/// An epoch is a function of (lengths, options, epoch) alone, so a resumed run needs no more state than the
/// epoch and the number of batches done: all indices are shuffled, cut into windows of window_batches
/// batches, sorted by length inside a window (ties in shuffled order), cut into batches, and the batches of a
/// window are shuffled. Sorting costs randomness only inside a window, and packed batches of similar lengths
/// keep attention balanced. A window holds at most one part in kFewestWindows of the data: sorted as a whole,
/// few examples would always meet the same others, those of their own kind.
class BatchPlan {
 public:
  static constexpr int64_t kFewestWindows = 8;

  /// `lengths` in tokens. Throws Error{kConfig} when neither limit is given or one is negative, and for
  /// weights that are no numbers above 0, leave an epoch empty, or make one of more than 2^30 sequences.
  BatchPlan(std::vector<uint32_t> lengths, const BatchOptions& options, const DrawWeights& draws = {});

  /// The batches of epoch `epoch` (from 0). Every sequence occurs once, or as the weights say.
  BatchList epoch(uint64_t epoch) const;
  /// The batches for evaluation: sorted by length (longest first, so that too large a batch fails at once),
  /// no randomness. Indices tell where each result belongs.
  BatchList sequential() const;

  /// Number of batches of epochs 0 ... epochs-1; with a token budget they differ from epoch to epoch.
  size_t count_batches(uint64_t epochs) const;

  /// Sequences of epoch `epoch`.
  size_t count_sequences(uint64_t epoch) const;

  size_t sequences() const noexcept { return lengths_.size(); }
  uint64_t tokens() const noexcept { return tokens_; }

 private:
  void group(const DrawWeights& draws);
  void cut(std::span<const uint32_t> order, BatchList& out) const;
  int64_t least_batches() const;  // of an epoch, from its limits
  size_t window_end(std::span<const uint32_t> order, size_t begin) const;

  struct Group {
    double weight = 1.0;
    std::vector<uint32_t> members;
    std::pair<uint64_t, uint64_t> drawn(uint64_t epoch) const;
  };
  std::vector<uint32_t> drawn(uint64_t epoch) const;

  std::vector<uint32_t> lengths_;
  BatchOptions options_;
  std::vector<Group> groups_;  // empty: an epoch is each sequence once
  uint64_t tokens_ = 0;
  double epoch_sequences_ = 0, epoch_tokens_ = 0;  // in the mean
};

/// A plan with the batches of the epoch that was asked for last.
class EpochBatches {
 public:
  explicit EpochBatches(BatchPlan plan) : plan_(std::move(plan)) {}
  const BatchList& of(int64_t epoch);

 private:
  BatchPlan plan_;
  BatchList batches_;
  int64_t epoch_ = -1;
};

}  // namespace msplora
