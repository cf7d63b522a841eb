#pragma once

#include <cstdint>

#include "msplora/kernels/isa.h"
#include "msplora/kernels/types.h"

/// The fast code of the project: raw pointers and shapes in, no configuration and no models. A kernel is a
/// struct of its arguments and a line of the list at the end; tables by instruction set and device, and the
/// functions, are made from the list.
///
/// Every kernel exists for float, Bfloat16 (storage; arithmetic in float) and double. float and Bfloat16
/// run the SIMD build that the processor supports (src/kernels/cpu), double runs the plain loops
/// (src/kernels/ref), which are also what tests compare against. Arrays are contiguous and row-major.
/// Reductions have an order that does not depend on the number of threads, nor does anything else.
namespace msplora::kernels {

/// y[i] = x[i] * mask[i] * scale. Its own backward. In place is allowed.
template <typename T>
struct Dropout {
  int64_t n = 0;
  DropoutMask mask;
  const T* x = nullptr;
  T* y = nullptr;
};

/// y[i] = f(x[i]) and, when `derivative` is not null, derivative[i] = f'(x[i]): backward multiplies by it
/// instead of computing the exponential again. In place is allowed for one of the two.
template <typename T>
struct Activate {
  int64_t n = 0;
  Activation kind = Activation::kGelu;
  const T* x = nullptr;
  T* y = nullptr;
  T* derivative = nullptr;
};

/// y[i] = a[i] * b[i]. In place is allowed.
template <typename T>
struct Multiply {
  int64_t n = 0;
  const T* a = nullptr;
  const T* b = nullptr;
  T* y = nullptr;
};

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

/// s = dropout(x) + residual; y = (s - mean(s)) / sqrt(var(s) + eps) * gamma + beta, over the last dimension.
/// x, residual (may be null), s (may be null), y: [rows, width]; gamma, beta: [width];
/// mean, rstd: float [rows], saved for backward.
template <typename T>
struct ResidualLayerNorm {
  int64_t rows = 0, width = 0;
  double eps = 1e-5;
  DropoutMask mask;
  const T* x = nullptr;
  const T* residual = nullptr;
  const Exact<T>* gamma = nullptr;
  const Exact<T>* beta = nullptr;
  T* s = nullptr;
  T* y = nullptr;
  float* mean = nullptr;
  float* rstd = nullptr;
};

/// Backward of residual_layer_norm: d_residual = d s, d_x = d s through the mask. d_gamma and d_beta
/// ([width]) are overwritten when not null. d_residual and d_x may be the same array when the mask is
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
  const Exact<T>* gamma = nullptr;
  T* d_x = nullptr;
  T* d_residual = nullptr;
  Exact<T>* d_gamma = nullptr;
  Exact<T>* d_beta = nullptr;
};

/// How exactly packed products, attention and low-rank products multiply floats. All but kExact are for
/// matrix units, which multiply bfloat16: a float becomes a sum of numbers of that type (of an infinite one,
/// NaN). Instruction sets without such units multiply exactly whatever is asked for.
enum class Precision {
  kExact,   // in float32
  kHigh,    // three numbers each: as exact as float32
  kMedium,  // two: 16 bits, errors of 4e-6 to 2e-5 of the largest value
};

/// Rows [begin, end) of stacked low-rank factors, with a dropout mask of their own on the input.
struct LowRankSlice {
  int64_t begin = 0, end = 0;
  DropoutMask mask;
};

/// Where the ranks [begin, end) go to: columns of one layer's output. Rows of y and dy lie `stride` apart.
template <typename T>
struct LowRankOutput {
  using Factor = Exact<T>;
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
  using Factor = Exact<T>;
  int64_t rows = 0, in = 0, rank = 0;
  const LowRankSlice* slices = nullptr;  // cover [0, rank) in order
  int64_t num_slices = 0;
  const LowRankOutput<T>* outputs = nullptr;  // cover [0, rank) in order; none: z alone is computed
  int64_t num_outputs = 0;
  const T* x = nullptr;
  const Factor* down = nullptr;
  Factor* z = nullptr;
  Precision precision = Precision::kExact;  // of float
};

/// Backward of low_rank: d_down and every d_up_t are overwritten; dx [rows, in], when not null, is added to.
/// dz [rows, rank], when not null, gets the gradient of z times the scale of its mask: where no slice has a
/// mask, a product that forms the rest of dx can add dz down to its sums (PackedGemm::z).
template <typename T>
struct LowRankBackward {
  LowRank<T> forward;  // with z, dy and d_up_t; y is not used
  T* dx = nullptr;
  typename LowRank<T>::Factor* d_down = nullptr;
  typename LowRank<T>::Factor* dz = nullptr;
};

/// Rows of one sequence that attend to rows of it. Places count the tokens of the sequence, so that queries
/// may stand anywhere: all of a packed sequence, the one that a classifier reads, those behind a cache of
/// keys, a part of a prompt. Segments may share keys (a common beginning of several sequences), but not in
/// backward.
struct AttentionSegment {
  int32_t q_begin = 0, q_count = 0;  // rows of q, o and lse
  int32_t k_begin = 0, k_count = 0;  // rows of k and v
  int32_t q_place = 0, k_place = 0;  // of the first query and the first key
};

/// What a score gets by the distance d = place of the query - place of the key. With b = bucket_of[d], where
/// d is limited to [-reach, reach]: scale (q · key[b] + k · query[b]) + bias[b]. key and query are DeBERTa's
/// (He et al., 2021: content to position, position to content), bias is T5's (Raffel et al., 2020); each may
/// be null.
template <typename T>
struct RelativeTerms {
  int64_t buckets = 0;
  int64_t reach = 0;
  const int32_t* bucket_of = nullptr;  // [2 reach + 1], of the distances -reach to reach
  const T* key = nullptr;              // [buckets, heads, head_dim]
  const T* query = nullptr;            // [buckets, heads, head_dim]
  const Exact<T>* bias = nullptr;      // [buckets, heads]
};

/// Softmax attention inside segments: o = dropout(softmax(s)) v over the keys that a query sees, with scores
/// s = cap(scale q kᵀ + relative), cap(s) = soft_cap tanh(s / soft_cap), or s where soft_cap is 0. q, o:
/// [rows, heads, head_dim]; k, v: [rows, kv_heads, head_dim]; heads is a multiple of kv_heads (query head h
/// reads key head h / (heads / kv_heads)). q_stride etc. are the distances between rows in elements. lse:
/// float [rows, heads], log-sum-exp of the scores, saved for backward. A query that sees no key gives 0, with
/// an lse of -infinity. Rows of no segment are not touched.
///
/// A query at place p sees the keys at places p - window_left to p + window_right; -1: no limit to that side.
/// Causal attention is window_right = 0; a sliding window of w tokens that counts the token itself, as
/// Mistral's does, is window_left = w - 1. Work is proportional to the window.
///
/// Element (i, j) of the mask of (segment, head) is i * round_up(k_count, 16) + j for its query i and key j,
/// in the stream mixed from the key, k_begin and the head. Memory: O(k_count (head_dim + 32)) per thread.
template <typename T>
struct Attention {
  const AttentionSegment* segments = nullptr;
  int64_t num_segments = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, o_stride = 0;
  double scale = 1.0, soft_cap = 0.0;
  int64_t window_left = -1, window_right = -1;
  DropoutMask mask;
  const RelativeTerms<T>* relative = nullptr;
  const T* q = nullptr;
  const T* k = nullptr;
  const T* v = nullptr;
  T* o = nullptr;
  float* lse = nullptr;
  Precision precision = Precision::kExact;  // of float
};

/// Backward: dq, dk, dv have the strides of q, k, v and are overwritten in the rows of the segments; d_o and
/// o have o_stride. Probabilities are computed again from lse. The gradients of the relative terms, where not
/// null, are overwritten, and those of terms that are null are not touched.
template <typename T>
struct AttentionBackward {
  Attention<T> forward;  // with o and lse filled in
  const T* d_o = nullptr;
  T* dq = nullptr;
  T* dk = nullptr;
  T* dv = nullptr;
  T* d_relative_key = nullptr;
  T* d_relative_query = nullptr;
  Exact<T>* d_relative_bias = nullptr;
};

/// s = x + residual; y = s / sqrt(mean(s²) + eps) * gamma, over the last dimension (Zhang & Sennrich, 2019).
/// x, residual (may be null), s (may be null; then x is what backward needs when there is no residual),
/// y: [rows, width]; gamma: [width]; inverse: float [rows], 1 / sqrt(mean(s²) + eps), saved for
/// backward.
template <typename T>
struct ResidualRmsNorm {
  int64_t rows = 0, width = 0;
  double eps = 1e-6;
  const T* x = nullptr;
  const T* residual = nullptr;
  const Exact<T>* gamma = nullptr;
  T* s = nullptr;
  T* y = nullptr;
  float* inverse = nullptr;
};

/// Backward. d_s (may be null) is the gradient that reaches s past the norm, through the residual stream.
/// d_x is the gradient of s, and so of x and of residual. d_x may be the array d_s. d_gamma ([width]) is
///  overwritten when not null.
template <typename T>
struct ResidualRmsNormBackward {
  int64_t rows = 0, width = 0;
  double eps = 1e-6;  // as in forward
  const T* dy = nullptr;
  const T* d_s = nullptr;
  const T* s = nullptr;
  const float* inverse = nullptr;
  const Exact<T>* gamma = nullptr;
  T* d_x = nullptr;
  Exact<T>* d_gamma = nullptr;
};

/// Which elements of a head are turned together.
enum class RotaryPairs {
  kHalves,       // i and i + rotary_dim / 2 (Hugging Face's Llama, Mistral, Qwen)
  kInterleaved,  // 2 i and 2 i + 1 (the paper, GPT-J)
};

/// Rotary position embedding (Su et al., 2021, equation 34): the pair i of each head is turned by the angle
/// of (position, i). x, y: [tokens, heads, head_dim] with x_stride, y_stride elements between tokens;
/// elements of a head from rotary_dim (even) on are copied. cos, sin: [positions, rotary_dim / 2].
/// `inverse` turns back, which is the backward pass. y may be x.
template <typename T>
struct Rotary {
  int64_t tokens = 0, heads = 0, head_dim = 0, rotary_dim = 0;
  int64_t x_stride = 0, y_stride = 0;
  RotaryPairs pairs = RotaryPairs::kHalves;
  bool inverse = false;
  const int32_t* positions = nullptr;  // [tokens], rows of cos and sin
  const Exact<T>* cos = nullptr;
  const Exact<T>* sin = nullptr;
  const T* x = nullptr;
  T* y = nullptr;
};

/// y = f(gate) * up (Shazeer, 2020), and the derivatives by gate and up, up f'(gate) and f(gate), which
/// backward needs. All [rows, width]; rows of gate, up and what is by them lie `stride` apart, so that both
/// may be halves of one array.
template <typename T>
struct GatedActivation {
  int64_t rows = 0, width = 0, stride = 0;
  Activation activation = Activation::kSilu;
  const T* gate = nullptr;
  const T* up = nullptr;
  T* y = nullptr;
  T* by_gate = nullptr;  // null: neither is needed; may be gate itself
  T* by_up = nullptr;    // may be up itself
};

/// Backward: d_gate = dy * by_gate and d_up = dy * by_up, all but dy with `stride`.
template <typename T>
struct GatedActivationBackward {
  int64_t rows = 0, width = 0, stride = 0;
  const T* by_gate = nullptr;
  const T* by_up = nullptr;
  const T* dy = nullptr;
  T* d_gate = nullptr;
  T* d_up = nullptr;
};

/// losses[row] = log Σ_j exp(z[row, j]) - z[row, labels[row]] of z = soft_cap tanh(logits / soft_cap), or the
/// logits where soft_cap is 0. With `with_gradient` the row is overwritten with the gradient of the logits,
/// softmax(z) - onehot(label) times the derivative of the cap; without, with z. logits: [rows, classes];
/// labels in [0, classes). A row with a NaN has a loss of NaN.
template <typename T>
struct CrossEntropyRows {
  int64_t rows = 0, classes = 0;
  double soft_cap = 0.0;
  const int64_t* labels = nullptr;
  bool with_gradient = false;
  T* logits = nullptr;
  double* losses = nullptr;
};

/// A matrix W [inner, width] in the layout that packed_gemm reads: element (k, j) is w[k * row_stride + j *
/// column_stride]. The layout is that of the instruction set.
template <typename T>
struct PackGemm {
  int64_t inner = 0, width = 0;
  int64_t row_stride = 0, column_stride = 0;
  Isa isa = Isa::kPortable;
  const T* w = nullptr;
  T* packed = nullptr;          // null: `elements` alone is told
  int64_t* elements = nullptr;  // that W takes when packed: its own, rounded up to whole panels; may be null
  int64_t* columns = nullptr;   // `width` rounded up to whole panels; may be null
  /// Instead of `w`: Wᵀ [width, inner] as it was packed for the same instruction set. The strides are not
  /// read.
  const T* transposed = nullptr;
  Precision precision = Precision::kExact;  // of float
};

/// The end of a low-rank update of some columns: y[:, column + j] += Σ_r z[:, r] up_t[r - begin, j] over the
/// ranks [begin, end).
struct GemmUpdate {
  int64_t begin = 0, end = 0;
  int64_t column = 0, width = 0;
  const float* up_t = nullptr;  // [end - begin, width]
};

/// A matrix W [inner, width] as quantised files hold it, in the panels of packed products: element (k, j) is
/// (scales[k / block, j] * factors[k / run, j]) * code[k, j] - low_scales[k / block, j] * low_factors[k /
/// run, j], rounded to the type of the product. Of each array the part of a panel of whole_panels columns
/// follows that of the panel before; within it rows lie one after the other.
struct QuantisedMatrix {
  Isa isa = Isa::kPortable;
  int64_t inner = 0, width = 0;  // inner: whole blocks
  /// Codes of eight bits, [inner, panel]; with `values`, of four: [inner / 2, panel], the number of the value
  /// of row k in the low half of a byte, that of row k + 1 in the high one.
  const uint8_t* codes = nullptr;
  const int8_t* values = nullptr;        // [16], what codes of four bits stand for; null: codes are numbers
  int64_t run = 0, block = 0;            // rows; a block is whole runs of 16 or 32
  const int8_t* factors = nullptr;       // [inner / run, panel]; null: 1
  const uint8_t* low_factors = nullptr;  // [inner / run, panel]; null: 1
  const float* scales = nullptr;         // [inner / block, panel]
  const float* low_scales = nullptr;     // [inner / block, panel]; null: 0
};

/// Products with a matrix that stays the same over many calls; sums in float.
/// y (+)= factor * (x W + z U + bias), or y = f(x W + z U + bias), with W packed by pack_gemm. Of Bfloat16
/// `inner` must be even.
template <typename T>
struct PackedGemm {
  int64_t rows = 0, inner = 0, width = 0;
  Isa isa = Isa::kPortable;   // that W was packed for
  const T* x = nullptr;       // [rows, inner]
  const T* packed = nullptr;  // W, [inner, width]
  /// In place of `packed`, exact alone: parts of W are formed as they are used. The sums are the bits of
  /// those with the same numbers packed.
  const QuantisedMatrix* quantised = nullptr;
  /// `packed` or `quantised` is Wᵀ, [width, inner], and parts of W are formed out of it as they are used: one
  /// copy serves a product and its gradient. The sums are the same bits.
  bool is_transposed = false;
  Precision precision =
      Precision::kExact;        // that W was packed for; with another than kExact W is not transposed
  const float* bias = nullptr;  // [width], or null

  /// z U: the updates, in rising columns and ranks, are added to the sums before these are rounded.
  const float* z = nullptr;  // [rows, rank]
  int64_t rank = 0;
  const GemmUpdate* updates = nullptr;
  int64_t num_updates = 0;

  const T* factor = nullptr;  // [rows, width], or null
  bool add = false;           // onto what y holds
  T* y = nullptr;             // [rows, width]

  /// With `is_activated` (then without factor and add), f is `activation`, and f' goes to `derivative` [rows,
  /// width] (null: not needed).
  bool is_activated = false;
  Activation activation = Activation::kGelu;
  T* derivative = nullptr;

  /// A gated product, where above 0 (then activated): W has two halves of whole panels each (whole_panels),
  /// of a gate and of what it lets through; f(gate) * up goes to y [rows, gated_width], and by_gate and by_up
  /// (GatedActivation) to the halves of `derivative`, which must be there.
  int64_t gated_width = 0;
  /// Its gradient, where above 0 (then with a factor alone): factor and y are [rows, 2 half_width], and the
  /// product, 0 from column `width` on, times each half of factor goes to that half of y. Not below `width`
  /// and whole panels.
  int64_t half_width = 0;
};

/// The list of kernels: alone, X(function, struct), or with their backward pass, B(function, struct), which
/// stands for X(function, struct) and X(function_backward, structBackward). Every line has cases
/// (src/bench/op_cases), to which tests hold it and at which it is timed.
#define MSPLORA_OPERATIONS(X, B)            \
  X(dropout, Dropout)                       \
  X(activate, Activate)                     \
  X(multiply, Multiply)                     \
  X(embedding_sum, EmbeddingSum)            \
  X(add_row_noise, RowNoise)                \
  B(residual_layer_norm, ResidualLayerNorm) \
  B(residual_rms_norm, ResidualRmsNorm)     \
  B(low_rank, LowRank)                      \
  B(attention, Attention)                   \
  X(rotary, Rotary)                         \
  B(gated_activation, GatedActivation)      \
  X(cross_entropy_rows, CrossEntropyRows)   \
  X(pack_gemm, PackGemm)                    \
  X(packed_gemm, PackedGemm)

/// The list with MSPLORA_KERNEL(function, struct), which whoever writes this defines first, for each kernel.
#define MSPLORA_KERNELS MSPLORA_OPERATIONS(MSPLORA_KERNEL, MSPLORA_KERNEL_AND_BACKWARD)
#define MSPLORA_KERNEL_AND_BACKWARD(name, Op) \
  MSPLORA_KERNEL(name, Op) MSPLORA_KERNEL(name##_backward, Op##Backward)

/// void name(const Op<T>& op), on the CPU: in the active instruction set, or in the one that the arguments
/// were laid out for (a member `isa`).
#define MSPLORA_KERNEL(name, Op) \
  template <typename T>          \
  void name(const Op<T>& op);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL

/// Kernels by the names of their functions.
#define MSPLORA_KERNEL(name, Op) name,
enum class Kernel { MSPLORA_KERNELS };
#undef MSPLORA_KERNEL

}  // namespace msplora::kernels
