#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace msplora {

/// Where the processes of one run meet. All ranks make the same calls in the same order; each call waits for
/// the others. Of one process there are sums of one, which cost nothing.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;  // 0 <= rank < size
  virtual int64_t size() const = 0;
  /// Puts the sum over all ranks in place of the values, the same bits on each. One contiguous tensor, of one
  /// shape and type on all ranks.
  virtual void sum(at::Tensor& flat) = 0;
  /// Puts the values of rank `from` in place of the others'.
  virtual void broadcast(at::Tensor& flat, int64_t from) = 0;
  /// The bytes of every rank, in their order.
  virtual std::vector<std::string> gather(const std::string& bytes) = 0;
};

/// A run of one process.
class OneProcess final : public Communicator {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void sum(at::Tensor&) override {}
  void broadcast(at::Tensor&, int64_t) override {}
  std::vector<std::string> gather(const std::string& bytes) override { return {bytes}; }
};

/// The sums of numbers over all ranks, as float64.
std::vector<double> sum_over_ranks(Communicator& ranks, std::vector<double> numbers);

/// Puts the sums over all ranks in place of the gradients, which pass in one flat buffer for each type; an
/// absent gradient counts as zero. Nothing is done for one rank.
void sum_gradients(Communicator& ranks, const std::vector<at::Tensor>& trained);

/// Puts the slots of all ranks, in their order, in place of each [slots, ...]. Ranks may hold different
/// numbers of slots, and none.
void join_slots(Communicator& ranks, const std::vector<at::Tensor*>& slots);

}  // namespace msplora
