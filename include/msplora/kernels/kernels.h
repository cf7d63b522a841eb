#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// The fast code of the project: raw pointers and shapes in, no configuration and no models.
///
/// Every function exists for float, Bfloat16 (storage; arithmetic in float) and double. float and Bfloat16
/// run the SIMD build that the processor supports (src/kernels/cpu), double runs the plain loops
/// (src/kernels/ref), which are also what tests compare against. Arrays are contiguous and row-major.
/// Reductions over rows have a fixed order for a fixed number of threads; everything else does not depend on
/// the number of threads at all.
namespace msplora::kernels {

/// Storage of a bfloat16 value; bit-compatible with c10::BFloat16.
struct Bfloat16 {
  uint16_t bits;
};

/// Instruction sets that the SIMD sources are built for.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16 };
/// The best one that this processor runs, or what set_isa chose.
Isa active_isa();
/// Chooses a lower instruction set (tests, benchmarks). Throws Error{kUsage} when the processor lacks it.
void set_isa(Isa isa);
std::vector<Isa> available_isas();
std::string to_string(Isa isa);

/// Rounds of the generators, the fewest that pass BigCrush (Salmon et al. 2011, table 2): of ARS for masks,
/// of Philox for noise.
inline constexpr int kMaskRounds = 5;
inline constexpr int kNoiseRounds = 7;

/// A dropout mask that is computed, never stored. Element e of the stream `key` is kept when its 16-bit
/// number is at least threshold = round(p * 65536); kept values are scaled by 1 / (1 - threshold / 65536).
/// The numbers are those of ARS (core/random.h): counter e / 8 gives eight 16-bit numbers, low bytes first,
/// of which e % 8 is taken.
struct DropoutMask {
  uint64_t key = 0;
  double p = 0.0;

  bool active() const { return p > 0.0; }
  uint32_t threshold() const { return static_cast<uint32_t>(p * 65536.0 + 0.5); }
  double scale() const { return 1.0 / (1.0 - threshold() / 65536.0); }
};

/// y[i] = x[i] * mask[i] * scale. Its own backward. In place is allowed.
template <typename T>
void dropout(const T* x, T* y, int64_t n, DropoutMask mask);

/// y[t] = Σ_p tables[p][ids[p][t]], rows of `width`, summed in float before they are rounded. ids null: row
/// 0.
template <typename T>
struct EmbeddingSum {
  static constexpr int kMost = 3;
  int64_t rows = 0, width = 0;
  int parts = 0;
  const T* tables[kMost] = {};
  const int64_t* ids[kMost] = {};
  T* y = nullptr;
};
template <typename T>
void embedding_sum(const EmbeddingSum<T>& op);

/// y[i, j] = w[i, j] + deviations[i] * normal(key, i, j): Gaussian noise on a matrix, drawn again whenever it
/// is needed. y may be w. The normals are a function of (key, i, j) alone: with (u0, u1, u2, u3) the words of
/// Philox 4x32-7 at the counter ((j / 64) * 16 + j % 16, i), Box-Muller makes two of (u0, u1) and two of
/// (u2, u3), sqrt(-2 ln (((u0 >> 8) + 1) / 2^24)) times cos and sin of 2 pi (u1 >> 8) / 2^24, and number
/// (j % 64) / 16 of the four is taken.
template <typename T>
struct RowNoise {
  int64_t rows = 0, width = 0;
  uint64_t key = 0;
  const float* deviations = nullptr;  // [rows]
  const T* w = nullptr;               // [rows, width]
  T* y = nullptr;                     // [rows, width]
};
template <typename T>
void add_row_noise(const RowNoise<T>& op);

/// s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta, over the last dimension.
/// x, residual (may be null), s (may be null), y: [rows, width]; gamma, beta: float [width];
/// mean, rstd: float [rows], saved for backward.
template <typename T>
struct ResidualLayerNorm {
  int64_t rows = 0, width = 0;
  double eps = 1e-5;
  DropoutMask mask;
  const T* x = nullptr;
  const T* residual = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  T* s = nullptr;
  T* y = nullptr;
  float* mean = nullptr;
  float* rstd = nullptr;
};
template <typename T>
void residual_layer_norm(const ResidualLayerNorm<T>& op);

/// Backward of residual_layer_norm: d_residual = d s, d_x = d s through the mask. d_gamma and d_beta (float
/// [width]) are overwritten when not null. d_residual and d_x may be the same array when the mask is
/// inactive.
template <typename T>
struct ResidualLayerNormBackward {
  int64_t rows = 0, width = 0;
  double eps = 1e-5;  // as in forward
  DropoutMask mask;
  const T* dy = nullptr;
  const T* s = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  const float* gamma = nullptr;
  T* d_x = nullptr;
  T* d_residual = nullptr;
  float* d_gamma = nullptr;
  float* d_beta = nullptr;
};
template <typename T>
void residual_layer_norm_backward(const ResidualLayerNormBackward<T>& op);

/// Rows [begin, end) of stacked low-rank factors, with a dropout mask of their own on the input.
struct LowRankSlice {
  int64_t begin = 0, end = 0;
  DropoutMask mask;
};

/// Type of adapter factors beside activations of type T: float32, float64 beside float64.
template <typename T>
struct FactorType {
  using type = float;
};
template <>
struct FactorType<double> {
  using type = double;
};

/// Where the ranks [begin, end) go to: columns of one layer's output. Rows of y and dy lie `stride` apart.
template <typename T>
struct LowRankOutput {
  using Factor = typename FactorType<T>::type;
  int64_t begin = 0, end = 0;
  int64_t width = 0, stride = 0;
  const Factor* up_t = nullptr;  // [end - begin, width], transposed and with scalings folded in
  T* y = nullptr;                // forward: is added to
  const T* dy = nullptr;         // backward
  Factor* d_up_t = nullptr;      // backward: is overwritten
};

/// y_o += Σ over the ranks r of output o of mask_r(x) down_rᵀ up_r: all slices, the terms of all levels and
/// the layers that read the same input in one pass over x. x [rows, in]; down [rank, in]; z [rows, rank] =
/// mask(x) downᵀ is kept for backward. Element t * in + i of a slice's mask belongs to x[t, i].
template <typename T>
struct LowRank {
  using Factor = typename FactorType<T>::type;
  int64_t rows = 0, in = 0, rank = 0;
  const LowRankSlice* slices = nullptr;  // cover [0, rank) in order
  int64_t num_slices = 0;
  const LowRankOutput<T>* outputs = nullptr;  // cover [0, rank) in order; none: z alone is computed
  int64_t num_outputs = 0;
  const T* x = nullptr;
  const Factor* down = nullptr;
  Factor* z = nullptr;
};
template <typename T>
void low_rank(const LowRank<T>& op);

/// Backward of low_rank: d_down and every d_up_t are overwritten; dx [rows, in], when not null, is added to.
template <typename T>
struct LowRankBackward {
  LowRank<T> forward;  // with z, dy and d_up_t; y is not used
  T* dx = nullptr;
  typename LowRank<T>::Factor* d_down = nullptr;
};
template <typename T>
void low_rank_backward(const LowRankBackward<T>& op);

/// Hugging Face names: gelu (erf), gelu_new / gelu_pytorch_tanh (tanh), relu, silu, tanh.
enum class Activation { kGelu, kGeluTanh, kRelu, kSilu, kTanh };
/// y[i] = f(x[i]) and, when `derivative` is not null, derivative[i] = f'(x[i]): backward multiplies by it
/// instead of computing the exponential again. In place is allowed for one of the two.
template <typename T>
void activation(Activation kind, const T* x, T* y, T* derivative, int64_t n);
/// y[i] = a[i] * b[i].
template <typename T>
void multiply(const T* a, const T* b, T* y, int64_t n);

/// The tokens of a segment that have a query. A classifier reads one row of the last layer: the first token's
/// in an encoder, the last one's in a decoder.
enum class Queries { kAll, kFirst, kLast };

/// Softmax attention inside each segment of a packed batch: o = dropout(softmax(scale q kᵀ)) v over the keys
/// that a query sees. q, o: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim]; heads is a multiple of
/// kv_heads (query head h reads key head h / (heads / kv_heads)). q_stride etc. are the distances between
/// tokens in elements. lse: float [T, heads], log-sum-exp of the scaled scores, saved for backward. Element
/// (i, j) of the mask of (segment, head) is i * round_up(S, 16) + j for its query i and key j, in the stream
/// mixed from the key, the segment's first token and the head. Memory: O(S (head_dim + 32)) per thread.
///
/// The token at place p of its segment sees the keys at places p - window_left to p + window_right; -1: no
/// limit to that side. Causal attention is window_right = 0; a sliding window of w tokens that counts the
/// token itself, as Mistral's does, is window_left = w - 1. Work is proportional to the window.
///
/// With queries kFirst or kLast, q, o and lse have one row per segment, which sees what its token sees.
template <typename T>
struct SegmentAttention {
  const int32_t* cu_seqlens = nullptr;  // [segments + 1]
  int64_t segments = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, o_stride = 0;
  double scale = 1.0;
  int64_t window_left = -1, window_right = -1;
  Queries queries = Queries::kAll;
  DropoutMask mask;
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  T* o = nullptr;
  float* lse = nullptr;

  int64_t length(int64_t segment) const { return cu_seqlens[segment + 1] - cu_seqlens[segment]; }
  /// Of the segment's first query: its row in q, o and lse, and its place in the segment.
  int64_t query_row(int64_t segment) const {
    return queries == Queries::kAll ? cu_seqlens[segment] : segment;
  }
  int64_t query_place(int64_t segment) const { return queries == Queries::kLast ? length(segment) - 1 : 0; }
  int64_t query_count(int64_t segment) const {
    return queries != Queries::kAll && length(segment) > 1 ? 1 : length(segment);
  }
};
template <typename T>
void segment_attention(const SegmentAttention<T>& op);

/// Backward: dq, dk, dv have the strides of q, k, v and are overwritten; d_o and o have o_stride.
/// Probabilities are computed again from lse.
template <typename T>
struct SegmentAttentionBackward {
  SegmentAttention<T> forward;  // with o and lse filled in
  const T* d_o = nullptr;
  T* dq = nullptr;
  T* dk = nullptr;
  T* dv = nullptr;
};
template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op);

}  // namespace msplora::kernels
