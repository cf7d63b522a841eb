#pragma once

#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/runs/run.h"

namespace msplora {

/// What is about to happen, one line a subject, printed before training; control characters are spelled out.
class Panel {
 public:
  void add(std::string subject, std::string text) { lines_.push_back({std::move(subject), std::move(text)}); }
  std::string text() const;

 private:
  struct Line {
    std::string subject, text;
  };
  std::vector<Line> lines_;
};

/// How frozen weights are kept, and their bytes ("float32, mapped: 324.0 MiB"); empty without any.
std::string weights_line(const Model& model);
/// "12 layers", or "12 layers sharing 1 block".
std::string depth_text(const Architecture& architecture);
/// "roberta, 12 layers, hidden size 768, 124.6M parameters (DIR)".
std::string model_line(const Model& model, const std::string& path, bool random_init);
/// Where the head comes from: "fresh, drawn with seed 42: classifier.weight, ...; the base's head has 3
/// outputs", or that it is the base's own and what its classes were; "" where all is drawn.
std::string head_line(const Run& run);
/// "24 layers: query [768, 768] x 12, value [768, 768] x 12".
std::string sites_line(const std::vector<Site>& sites);
/// "430,082: adapter 135,168 (levels 24,576 + ...), head 294,914".
std::string trainable_line(const std::vector<TrainableTensor>& trainable);
/// "8551 examples, 96,123 tokens, lengths 4 to 47 (mean 11.2); 3 cut to 128 tokens, 57 tokens dropped".
std::string part_line(const EncodedPart& part);
/// Notes and parts of the data.
void add_data_lines(const RunData& data, Panel& panel);
/// "AdamW, lr 0.0005, linear with 6% warm-up, ...".
std::string optimizer_line(const TrainOptions& train);
/// "float32 on 2 threads, seed 42".
std::string compute_line(const TrainOptions& train, int threads);
std::string batch_line(const TrainOptions& train, double mean_length);
/// The memory of a training step.
std::string memory_line(const MemoryEstimate& estimate);

/// What the method keeps for training beside the optimizer ("113 MiB: moments, ..."); empty for most methods.
std::string method_state_line(const Adapter& adapter, const std::string& optimizer);

}  // namespace msplora
