#include "msplora/models/memory_estimate.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/adapters/planning.h"
#include "msplora/models/model.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

TEST(MemoryEstimate, CheckpointingKeepsTheInputsOfBlocksAndOneBlock) {
  const Architecture architecture = describe(known_model_shape("roberta-base"));
  MemoryQuestion question;
  question.tokens_per_batch = 1000;
  // A block keeps 4 x 768 for attention and a number for each head, 2 x 768 for norms, 3072 for the
  // feed-forward.
  const int64_t block = 6 * 768 + 12 + 3072, rest = 2 * 768 + (2 * 768 + 3072);
  EXPECT_EQ(estimate_memory(architecture, question).activations, 4 * 1000 * (12 * block + rest));
  question.checkpoint_activations = true;
  EXPECT_EQ(estimate_memory(architecture, question).activations, 4 * 1000 * (12 * 768 + block + rest));
}

// 4,096 tokens of width 2,048 make 2^23 values; 65 rows of logits would be about as many, 128 are the fewest.
TEST(MemoryEstimate, LogitsOfALanguageModelComeSomeRowsAtATime) {
  const Architecture architecture = describe(known_model_shape("llama-3.2-1b"));
  MemoryQuestion question;
  const int64_t block = 4 * (2 * 2048 * 4096 + 3 * 8192 * 4096);  // gradients while a block runs
  const int64_t without = estimate_memory(architecture, question).activations - block;
  question.is_causal_lm = true;
  question.tokens_per_batch = 4096;
  const int64_t with = estimate_memory(architecture, question).activations;
  EXPECT_EQ(with - without, std::max<int64_t>(block, 4 * (2048 * 4096 + 128 * 128256)));
}

std::atomic<int64_t> held{0}, most_held{0};

/// Counts the bytes of the arrays that tensors have.
class CountingAllocator final : public c10::Allocator {
 public:
  // The first is what libtorch 1.13 calls, the others what 2.3 and later do.
  c10::DataPtr allocate(size_t bytes) const { return block_of(bytes); }
  c10::DataPtr allocate(size_t bytes) { return block_of(bytes); }
  void copy_data(void* to, const void* from, size_t bytes) const { std::memcpy(to, from, bytes); }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }

 private:
  static constexpr size_t kRoom = 64;  // for the size; keeps the alignment
  static c10::DataPtr block_of(size_t bytes) {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, cpu};
    auto* block = static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + kRoom));
    if (block == nullptr) throw std::bad_alloc();
    std::memcpy(block, &bytes, sizeof(bytes));
    most_held = std::max<int64_t>(most_held, held += static_cast<int64_t>(bytes));
    return {block + kRoom, block + kRoom, &release, cpu};
  }
  static void release(void* data) {
    if (data == nullptr) return;
    char* const block = static_cast<char*>(data) - kRoom;
    size_t bytes = 0;
    std::memcpy(&bytes, block, sizeof(bytes));
    held -= static_cast<int64_t>(bytes);
    std::free(block);
  }
};

class CountedMemory {
 public:
  CountedMemory() : before_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(&allocator()); }
  ~CountedMemory() { c10::SetCPUAllocator(before_); }
  CountedMemory(const CountedMemory&) = delete;
  CountedMemory& operator=(const CountedMemory&) = delete;

 private:
  // Arrays may outlive the test.
  static CountingAllocator& allocator() {
    static CountingAllocator counting;
    return counting;
  }
  c10::Allocator* before_;
};

/// The same numbers twice: bytes that a forward pass with loss adds at most, and what the estimate says.
struct Activations {
  int64_t counted, estimated;
};

Activations activations_of(const std::string& model_type, const std::vector<std::string>& modules,
                           bool checkpoint) {
  const bool is_decoder = supports_task(model_type, ModelTask::kCausalLm);
  const ModelConfig config = model_test::small_config(model_type, {{"vocab_size", 400},
                                                                   {"hidden_size", 128},
                                                                   {"num_hidden_layers", 4},
                                                                   {"num_attention_heads", 4},
                                                                   {"num_key_value_heads", 2},
                                                                   {"intermediate_size", 384},
                                                                   {"max_position_embeddings", 130},
                                                                   {"type_vocab_size", 1},
                                                                   {"sliding_window", 24}});
  const CountedMemory memory;
  ModelLoadOptions options;
  options.task = is_decoder ? ModelTask::kCausalLm : ModelTask::kMaskedLm;
  const auto model = create_model(config, options);
  AdapterConfig adapter_config;
  adapter_config.method = "lora";
  adapter_config.rank = 2;
  adapter_config.target_modules = modules;
  AdapterTarget target;
  target.model_type = model_type;
  target.task_type = is_decoder ? "CAUSAL_LM" : "SEQ_CLS";
  target.num_layers = model->architecture().num_layers();
  target.sites = model->sites();
  target.parameters = model->parameters();
  const auto adapter = create_adapter(adapter_config, std::move(target), 7);

  PackedInput input;
  for (int32_t b = 0; b <= 8; ++b) input.cu_seqlens.push_back(128 * b);
  input.input_ids = at::arange(input.tokens(), at::kLong).remainder(400);
  if (!is_decoder) input.output_rows = at::arange(0, input.tokens(), 16);  // a sixteenth is predicted
  const at::Tensor labels = is_decoder ? input.input_ids : input.output_rows.remainder(400);
  const CheckpointActivations checkpointing(checkpoint);
  model->loss_sum(input, labels, {}).backward();  // makes packed products and gradients
  const int64_t before = held;
  most_held = before;
  const at::Tensor loss = model->loss_sum(input, labels, {});

  MemoryQuestion question = memory_question(*adapter);
  question.tokens_per_batch = input.tokens();
  question.is_causal_lm = is_decoder;
  question.checkpoint_activations = checkpoint;
  return {most_held - before, estimate_memory(model->architecture(), question).activations};
}

// The arrays of real forward passes: hardly more than the estimate (which leaves norms of heads out), and not
// far below.
TEST(MemoryEstimate, IsNearTheArraysOfAForwardPass) {
  for (const char* model_type : {"roberta", "bert", "llama", "mistral", "qwen3"}) {
    const bool is_decoder = supports_task(model_type, ModelTask::kCausalLm);
    const std::vector<std::string> attention = is_decoder ? std::vector<std::string>{"q_proj", "v_proj"}
                                                          : std::vector<std::string>{"query", "value"};
    for (const std::vector<std::string>& modules : {attention, {"all-linear"}}) {
      for (const bool checkpoint : {false, true}) {
        const Activations bytes = activations_of(model_type, modules, checkpoint);
        const double share = static_cast<double>(bytes.counted) / static_cast<double>(bytes.estimated);
        RecordProperty(std::string(model_type) + modules.front() + (checkpoint ? " checkpoint" : ""),
                       std::to_string(share));
        EXPECT_LE(share, 1.02) << model_type << " " << modules.front() << " " << checkpoint;
        EXPECT_GE(share, 0.6) << model_type << " " << modules.front() << " " << checkpoint;
      }
    }
  }
}

}  // namespace
}  // namespace msplora
