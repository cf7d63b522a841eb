#include "nn/packed_product.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

#include "msplora/core/memory.h"

#ifdef MSPLORA_WITH_ONEDNN
#include "nn/onednn_matmul.h"
#endif

namespace msplora::detail {

#ifdef MSPLORA_WITH_ONEDNN
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// Working memory of the product that runs, one for each thread instead of one for each layer.
void* scratchpad(size_t bytes) {
  thread_local std::vector<char> buffer;
  constexpr size_t kAlignment = 64;
  if (buffer.size() < bytes + kAlignment) buffer.resize(bytes + kAlignment);
  void* start = buffer.data();
  size_t room = buffer.size();
  return std::align(kAlignment, bytes, start, room);
}

memory::data_type type_of(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// oneDNN ends the process (a jump into code that was never written) where it finds no room for what it
// generates.
void need_room_for_code() {
  constexpr std::size_t kRoom = std::size_t{64} << 20;
  if (address_space_left() < kRoom) throw std::bad_alloc();
}

// A matrix packed for one direction, and for a bias or for none.
class OneDnnMatrix {
 public:
  OneDnnMatrix(const MatrixRows& matrix, Direction direction, bool with_bias)
      : inner_(direction == Direction::kForward ? matrix.in : matrix.out),
        width_(direction == Direction::kForward ? matrix.out : matrix.in),
        type_(type_of(matrix.dtype)),
        with_bias_(with_bias) {
    need_room_for_code();
    const memory::desc plain(
        {inner_, width_}, type_,
        direction == Direction::kForward ? memory::format_tag::ba : memory::format_tag::ab);
    // The layout is the one that whole blocks want; all others use it too.
    const memory::desc any({inner_, width_}, type_, memory::format_tag::any);
    const dnnl::matmul::primitive_desc typical = describe(kBlock, any, /*add=*/false);
    const at::Tensor whole = matrix.rows(0, matrix.out);
    memory stored(plain, engine(), whole.data_ptr());
    packed_ = memory(typical.weights_desc(), engine());
    dnnl::stream stream(engine());
    dnnl::reorder(stored, packed_).execute(stream, stored, packed_);
    stream.wait();
  }

  // Batches come in many lengths, and each length needs a primitive of its own, so rows pass in blocks of few
  // lengths, long ones first: each call costs a start of all threads.
  void run(const ProductCall& call) const {
    const size_t element = memory::data_type_size(type_);
    const size_t row_in = element * static_cast<size_t>(inner_),
                 row_out = element * static_cast<size_t>(width_);
    std::vector<char> sums;
    int64_t done = 0;
    while (call.rows - done >= kStep) {
      const int64_t count = block_rows(call.rows - done);
      const Rows at = rows_of(call, done);
      char* const product = product_of(call, at, count, sums);
      run_block(at.x, count, call.bias, product, call.add);
      finish(call, at, product, count);
      done += count;
    }
    if (done == call.rows) return;
    const auto rest = static_cast<size_t>(call.rows - done);
    const Rows at = rows_of(call, done);
    char* const product = product_of(call, at, call.rows - done, sums);
    std::vector<char> padded_in(row_in * kStep), padded_out(row_out * kStep);
    std::memcpy(padded_in.data(), at.x, row_in * rest);
    if (call.add) std::memcpy(padded_out.data(), product, row_out * rest);
    run_block(padded_in.data(), kStep, call.bias, padded_out.data(), call.add);
    std::memcpy(product, padded_out.data(), row_out * rest);
    finish(call, at, product, call.rows - done);
  }

  int64_t bytes() const { return static_cast<int64_t>(packed_.get_desc().get_size()); }

 private:
  static constexpr int64_t kBlock = 512, kStep = 64;

  struct Rows {
    const char* x;
    char* y;
    const char* factor;
    char* derivative;
  };

  Rows rows_of(const ProductCall& call, int64_t row) const {
    const auto bytes = [&](int64_t width) {
      return row * width * static_cast<int64_t>(memory::data_type_size(type_));
    };
    const int64_t factors = call.half_width > 0 ? 2 * call.half_width : width_;
    const auto* const factor = static_cast<const char*>(call.factor);
    auto* const derivative = static_cast<char*>(call.derivative);
    return {static_cast<const char*>(call.x) + bytes(inner_),
            static_cast<char*>(call.y) + bytes(call.gated_width > 0 ? call.gated_width : factors),
            factor == nullptr ? nullptr : factor + bytes(factors),
            derivative == nullptr ? nullptr : derivative + bytes(width_)};
  }

  // Where the product goes, of which what is asked for is formed.
  char* product_of(const ProductCall& call, const Rows& at, int64_t rows, std::vector<char>& sums) const {
    if (call.gated_width > 0) return at.derivative;
    if (call.half_width == 0) return at.y;
    sums.resize(std::max(sums.size(), static_cast<size_t>(rows * width_) * memory::data_type_size(type_)));
    return sums.data();
  }

  // What our own kernels do while the sums are in registers.
  void finish(const ProductCall& call, const Rows& at, char* product, int64_t rows) const {
    if (type_ == memory::data_type::bf16) {
      finish_as<kernels::Bfloat16>(call, at, product, rows);
    } else {
      finish_as<float>(call, at, product, rows);
    }
  }
  template <typename T>
  void finish_as(const ProductCall& call, const Rows& at, char* product, int64_t rows) const {
    T *const sums = reinterpret_cast<T*>(product), *const y = reinterpret_cast<T*>(at.y);
    const T* const factor = reinterpret_cast<const T*>(at.factor);
    const int64_t half = call.half_width, n = rows * width_;
    if (call.gated_width > 0) {
      T* const up = sums + width_ / 2;
      kernels::gated_activation<T>({rows, call.gated_width, width_, *call.activation, sums, up, y, sums, up});
    } else if (half > 0) {
      std::fill_n(y, half > width_ ? 2 * half * rows : 0, T{});
      kernels::gated_activation_backward<T>(
          {rows, width_, 2 * half, factor, factor + half, sums, y, y + half});
    } else {
      if (factor != nullptr) kernels::multiply<T>({n, factor, y, y});
      if (call.activation != nullptr)
        kernels::activate<T>({n, *call.activation, y, y, reinterpret_cast<T*>(at.derivative)});
    }
  }

  // Powers of two above kBlock, then a multiple of kStep; less is padded to kStep.
  static int64_t block_rows(int64_t rows) {
    for (const int64_t block : {4 * kBlock, 2 * kBlock, kBlock}) {
      if (rows >= block) return block;
    }
    return rows / kStep * kStep;
  }

  void run_block(const void* x, int64_t rows, const void* bias, void* y, bool add) const {
    const Primitive& primitive = primitive_for(rows, add);
    std::unordered_map<int, memory> arguments = {
        {DNNL_ARG_SRC, memory(rows_desc(rows, inner_), engine(), const_cast<void*>(x))},
        {DNNL_ARG_WEIGHTS, packed_},
        {DNNL_ARG_DST, memory(rows_desc(rows, width_), engine(), y)},
        {DNNL_ARG_SCRATCHPAD,
         memory(primitive.scratchpad, engine(), scratchpad(primitive.scratchpad.get_size()))}};
    if (with_bias_) arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc(), engine(), const_cast<void*>(bias)));
    dnnl::stream stream(engine());
    primitive.product.execute(stream, arguments);
    stream.wait();
  }

  memory::desc rows_desc(int64_t rows, int64_t columns) const {
    return {{rows, columns}, type_, memory::format_tag::ab};
  }
  memory::desc bias_desc() const { return {{1, width_}, memory::data_type::f32, memory::format_tag::ab}; }

  dnnl::matmul::primitive_desc describe(int64_t rows, const memory::desc& weights, bool add) const {
    const memory::desc x = rows_desc(rows, inner_), y = rows_desc(rows, width_);
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops onto;
      onto.append_sum(1.0f);
      attributes.set_post_ops(onto);
    }
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return plan_matmul(engine(), x, weights, with_bias_ ? bias_desc() : memory::desc(), y, attributes);
  }

  struct Primitive {
    dnnl::matmul product;
    memory::desc scratchpad;
  };

  // Made on use; one that is there stays where it is.
  const Primitive& primitive_for(int64_t rows, bool add) const {
    const std::lock_guard lock(mutex_);
    const auto found = primitives_.find({rows, add});
    if (found != primitives_.end()) return found->second;
    need_room_for_code();
    const dnnl::matmul::primitive_desc description = describe(rows, packed_.get_desc(), add);
    Primitive made{dnnl::matmul(description), description.scratchpad_desc()};
    return primitives_.emplace(std::pair(rows, add), std::move(made)).first->second;
  }

  int64_t inner_, width_;
  memory::data_type type_;
  bool with_bias_;
  memory packed_;
  mutable std::mutex mutex_;  // of the map, not of the products that run
  mutable std::map<std::pair<int64_t, bool>, Primitive> primitives_;
};

class OneDnnProduct : public PackedProduct {
 public:
  explicit OneDnnProduct(const MatrixRows& matrix) : matrix_(matrix) {}

  void run(Direction direction, const ProductCall& call) const override {
    packed(direction, call.bias != nullptr).run(call);
  }
  bool adds_updates() const override { return false; }
  int64_t rows_at_a_time() const override { return 1024; }
  int64_t bytes() const override {
    const std::lock_guard lock(mutex_);
    int64_t bytes = 0;
    for (const auto& [key, packed] : packed_) bytes += packed->bytes();
    return bytes;
  }

 private:
  // Made on use; one that is there stays.
  const OneDnnMatrix& packed(Direction direction, bool with_bias) const {
    const std::lock_guard lock(mutex_);
    auto& packed = packed_[{direction, with_bias}];
    if (!packed) packed = std::make_unique<OneDnnMatrix>(matrix_, direction, with_bias);
    return *packed;
  }

  MatrixRows matrix_;
  mutable std::mutex mutex_;  // of the map, not of the products that run
  mutable std::map<std::pair<Direction, bool>, std::unique_ptr<OneDnnMatrix>> packed_;
};

// Asked by planning a product, since the answer depends on the processor, oneDNN's version and its settings.
bool has_product(memory::data_type type) {
  const memory::desc matrix({64, 64}, type, memory::format_tag::ab),
      any({64, 64}, type, memory::format_tag::any);
  const memory::desc bias({1, 64}, memory::data_type::f32, memory::format_tag::ab);
  try {
    plan_matmul(engine(), matrix, any, bias, matrix);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace

bool suits_onednn_product(at::ScalarType dtype) {
  static const bool has_float = has_product(memory::data_type::f32),
                    has_bfloat16 = has_product(memory::data_type::bf16);
  return dtype == at::kFloat ? has_float : dtype == at::kBFloat16 && has_bfloat16;
}

std::unique_ptr<PackedProduct> make_onednn_product(const MatrixRows& matrix) {
  return std::make_unique<OneDnnProduct>(matrix);
}

#else

bool suits_onednn_product(at::ScalarType) {
  return false;
}

std::unique_ptr<PackedProduct> make_onednn_product(const MatrixRows&) {
  return nullptr;
}

#endif

}  // namespace msplora::detail
