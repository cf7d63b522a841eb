#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "conformance/method_row.h"
#include "msplora/models/model.h"
#include "msplora/train/trainer.h"
#include "msplora/train/training_data.h"

namespace msplora::testing {

/// Heads of a tiny model's attention. Encoders have the usual ones alone.
enum class Heads {
  kUsual,    // two of 8, together as wide as the model
  kGrouped,  // four of 6 for the queries, two for keys and values: wider than the model and narrower
};

/// A model of four layers and a few thousand numbers, drawn from a fixed seed.
class TinyModel {
 public:
  static constexpr int64_t kLayers = 4;

  explicit TinyModel(const std::string& model_type, at::ScalarType dtype = at::kFloat, double dropout = 0.0,
                     const at::Device& device = at::kCPU, Heads heads = Heads::kUsual);

  Model& model() { return *model_; }
  AdapterTarget target();
  /// Of the fixed batch, without dropout and without a graph.
  at::Tensor logits();
  /// A smooth function of the logits of the fixed batch.
  at::Tensor loss(const ForwardContext& context);

 private:
  std::unique_ptr<Model> model_;
};

/// Adds noise that depends on the tensor's name to every trainable tensor: no factor stays zero.
void randomise(const Adapter& adapter, double scale = 0.1);

/// How far weights merged in float32 may be from those merged in float64, relative to the largest: 2⁻²⁴ for
/// each rounding on the longest way to one of them. Most methods round the change and the sum; DoRA takes the
/// root, which halves, of a sum of at most 24 squares, then divides, multiplies and adds: 16 roundings.
inline constexpr double kMergedInFloat = 16.0 / (1 << 24);

/// Largest difference relative to the largest value.
double relative_difference(const at::Tensor& a, const at::Tensor& b);

/// What a training run shows about one tensor.
struct TensorHistory {
  std::set<int64_t> free;      // steps in which the trainer lets it move
  std::set<int64_t> gradient;  // steps in which it got a gradient that is not zero
};

/// A model with an adapter, trained through the Trainer on texts of random tokens. There is validation data
/// for methods that search, for no others.
class TinyTraining {
 public:
  explicit TinyTraining(const AdapterConfig& config, const std::string& model_type = "bert",
                        double dropout = 0.0, const at::Device& device = at::kCPU,
                        Heads heads = Heads::kUsual);
  ~TinyTraining();

  TrainingResult run(const std::filesystem::path& directory, bool resume = false);

  TinyModel& model() { return model_; }
  Adapter& adapter() { return *adapter_; }
  /// Everything that a step may change: trainable tensors, then the method's state tensors.
  std::vector<NamedTensor> values() const;
  const std::map<std::string, TensorHistory>& history() const { return history_; }

  TrainOptions options;

 private:
  void watch();

  TinyModel model_;
  std::unique_ptr<Adapter> adapter_;
  std::vector<TokenizedExample> examples_, validation_;
  std::map<std::string, TensorHistory> history_;
  int64_t step_ = 0;
};

/// The text of the Error that `body` throws, or "no error".
std::string error_of(const std::function<void()>& body);

/// The rules; GetParam() is the row. A rule that the row is excused from is skipped with the reason.
class Conformance : public ::testing::TestWithParam<MethodRow> {
 protected:
  void SetUp() override;
  const MethodRow& row() const { return GetParam(); }
};

}  // namespace msplora::testing
