#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "msplora/core/random.h"

namespace msplora::kernels::ref {
namespace {

template <typename T>
void dropout(const T* x, T* y, int64_t n, DropoutMask mask) {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(x[i] * mask_factor(mask, static_cast<uint64_t>(i)));
}

template <typename T>
void embedding_sum(const EmbeddingSum<T>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      double sum = 0;
      for (int p = 0; p < op.parts; ++p) sum += op.tables[p][(op.ids[p] ? op.ids[p][row] : 0) * op.width + i];
      op.y[row * op.width + i] = static_cast<T>(sum);
    }
  }
}

template <typename T>
void add_row_noise(const RowNoise<T>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const int64_t at = row * op.width + i;
      op.y[at] = static_cast<T>(op.w[at] + op.deviations[row] * normal(op.key, row, i));
    }
  }
}

struct Moments {
  double mean, rstd;
};

template <typename T>
Moments moments(const T* row, int64_t width, double eps) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < width; ++i) mean += row[i];
  mean /= static_cast<double>(width);
  for (int64_t i = 0; i < width; ++i) variance += (row[i] - mean) * (row[i] - mean);
  return {mean, 1.0 / std::sqrt(variance / static_cast<double>(width) + eps)};
}

template <typename T>
void residual_layer_norm(const ResidualLayerNorm<T>& op) {
  std::vector<T> s(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    for (int64_t i = 0; i < op.width; ++i) {
      const double factor = op.mask.active() ? mask_factor(op.mask, static_cast<uint64_t>(offset + i)) : 1.0;
      s[i] = static_cast<T>(op.x[offset + i] * factor + (op.residual ? op.residual[offset + i] : T{0}));
      if (op.s) op.s[offset + i] = s[i];
    }
    const Moments m = moments(s.data(), op.width, op.eps);
    op.mean[row] = static_cast<float>(m.mean);
    op.rstd[row] = static_cast<float>(m.rstd);
    for (int64_t i = 0; i < op.width; ++i)
      op.y[offset + i] = static_cast<T>((s[i] - m.mean) * m.rstd * op.gamma[i] + op.beta[i]);
  }
}

// rstd was rounded to float; the variance it stands for is taken from s again, and eps is what remains of it.
template <typename T>
void residual_layer_norm_backward(const ResidualLayerNormBackward<T>& op) {
  if (op.d_gamma) std::fill(op.d_gamma, op.d_gamma + op.width, 0.0f);
  if (op.d_beta) std::fill(op.d_beta, op.d_beta + op.width, 0.0f);
  std::vector<double> d_gamma(static_cast<size_t>(op.width)), d_beta(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    const T* s = op.s + offset;
    const double eps = op.eps;
    const Moments m = moments(s, op.width, eps);
    double mean_g = 0, mean_gn = 0;
    for (int64_t i = 0; i < op.width; ++i) {
      const double n = (s[i] - m.mean) * m.rstd, g = op.dy[offset + i] * static_cast<double>(op.gamma[i]);
      mean_g += g;
      mean_gn += g * n;
      d_gamma[i] += op.dy[offset + i] * n;
      d_beta[i] += op.dy[offset + i];
    }
    mean_g /= static_cast<double>(op.width);
    mean_gn /= static_cast<double>(op.width);
    for (int64_t i = 0; i < op.width; ++i) {
      const double n = (s[i] - m.mean) * m.rstd, g = op.dy[offset + i] * static_cast<double>(op.gamma[i]);
      const double ds = (g - mean_g - n * mean_gn) * m.rstd;
      const double factor = op.mask.active() ? mask_factor(op.mask, static_cast<uint64_t>(offset + i)) : 1.0;
      if (op.d_residual) op.d_residual[offset + i] = static_cast<T>(ds);
      if (op.d_x && (op.mask.active() || op.d_x != op.d_residual))
        op.d_x[offset + i] = static_cast<T>(ds * factor);
    }
  }
  for (int64_t i = 0; i < op.width; ++i) {
    if (op.d_gamma) op.d_gamma[i] = static_cast<float>(d_gamma[i]);
    if (op.d_beta) op.d_beta[i] = static_cast<float>(d_beta[i]);
  }
}

double value(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

double derivative(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu:
      return 0.5 * (1.0 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
    case Activation::kGeluTanh: {
      const double c = std::sqrt(2.0 / M_PI), t = std::tanh(c * (x + 0.044715 * x * x * x));
      return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
    }
    case Activation::kRelu:
      return x > 0 ? 1 : 0;
    case Activation::kSilu: {
      const double s = 1.0 / (1.0 + std::exp(-x));
      return s * (1.0 + x * (1.0 - s));
    }
    case Activation::kTanh: {
      const double t = std::tanh(x);
      return 1.0 - t * t;
    }
  }
  return 1;
}

template <typename T>
void activation(Activation kind, const T* x, T* y, T* slope, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<T>(value(kind, x[i]));
    if (slope) slope[i] = static_cast<T>(derivative(kind, x[i]));
  }
}

template <typename T>
void multiply(const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
}

// Probabilities and mask factors of one query row, of the keys from token `first` on.
struct Row {
  int64_t first = 0;
  std::vector<double> p, factor;
  double lse = 0;
};

template <typename T>
Row attention_row(const SegmentAttention<T>& op, int64_t segment, int64_t head, int64_t i) {
  const int64_t begin = op.cu_seqlens[segment], length = op.length(segment);
  const int64_t kv = head / (op.heads / op.kv_heads), d = op.head_dim, place = op.query_place(segment) + i;
  const int64_t from = op.window_left < 0 ? 0 : std::max<int64_t>(0, place - op.window_left);
  const int64_t to = op.window_right < 0 ? length : std::min(length, place + op.window_right + 1);
  const int64_t n = to - from;
  const T* q = op.q + (op.query_row(segment) + i) * op.q_stride + head * d;
  Row row{begin + from, std::vector<double>(static_cast<size_t>(n)),
          std::vector<double>(static_cast<size_t>(n), 1.0), 0};
  double top = -INFINITY, total = 0;
  for (int64_t j = 0; j < n; ++j) {
    const T* k = op.k + (row.first + j) * op.k_stride + kv * d;
    double dot = 0;
    for (int64_t c = 0; c < d; ++c) dot += static_cast<double>(q[c]) * k[c];
    row.p[j] = dot * op.scale;
    top = std::max(top, row.p[j]);
  }
  for (double& p : row.p) total += (p = std::exp(p - top));
  for (double& p : row.p) p /= total;
  row.lse = top + std::log(total);
  if (op.mask.active()) {
    const DropoutMask mask{attention_mask_key(op.mask.key, begin, head), op.mask.p};
    const int64_t padded = (length + 15) / 16 * 16;
    for (int64_t j = 0; j < n; ++j)
      row.factor[j] = mask_factor(mask, static_cast<uint64_t>(i * padded + from + j));
  }
  return row;
}

template <typename T, typename Body>
void for_each_row(const SegmentAttention<T>& op, Body body) {
  for (int64_t segment = 0; segment < op.segments; ++segment) {
    for (int64_t head = 0; head < op.heads; ++head)
      for (int64_t i = 0; i < op.query_count(segment); ++i)
        body(op.query_row(segment) + i, head, attention_row(op, segment, head, i));
  }
}

template <typename T>
void segment_attention(const SegmentAttention<T>& op) {
  for_each_row(op, [&](int64_t query, int64_t head, const Row& row) {
    const int64_t kv = head / (op.heads / op.kv_heads);
    T* o = op.o + query * op.o_stride + head * op.head_dim;
    for (int64_t c = 0; c < op.head_dim; ++c) {
      double sum = 0;
      for (size_t j = 0; j < row.p.size(); ++j)
        sum += row.p[j] * row.factor[j] *
               op.v[(row.first + static_cast<int64_t>(j)) * op.v_stride + kv * op.head_dim + c];
      o[c] = static_cast<T>(sum);
    }
    if (op.lse) op.lse[query * op.heads + head] = static_cast<float>(row.lse);
  });
}

template <typename T>
void clear(T* data, int64_t tokens, int64_t width, int64_t stride) {
  for (int64_t t = 0; t < tokens; ++t) std::fill(data + t * stride, data + t * stride + width, T{0});
}

template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op) {
  const SegmentAttention<T>& f = op.forward;
  const int64_t tokens = f.cu_seqlens[f.segments], d = f.head_dim;
  clear(op.dq, f.queries == Queries::kAll ? tokens : f.segments, f.heads * d, f.q_stride);
  clear(op.dk, tokens, f.kv_heads * d, f.k_stride);
  clear(op.dv, tokens, f.kv_heads * d, f.v_stride);
  for_each_row(f, [&](int64_t at, int64_t head, const Row& row) {
    const int64_t kv = head / (f.heads / f.kv_heads);
    const T* d_o = op.d_o + at * f.o_stride + head * d;
    const T* q = f.q + at * f.q_stride + head * d;
    std::vector<double> dp(row.p.size());
    double delta = 0;
    for (size_t j = 0; j < row.p.size(); ++j) {
      const T* v = f.v + (row.first + static_cast<int64_t>(j)) * f.v_stride + kv * d;
      for (int64_t c = 0; c < d; ++c) dp[j] += static_cast<double>(d_o[c]) * v[c];
      dp[j] *= row.factor[j];
      delta += dp[j] * row.p[j];
    }
    for (size_t j = 0; j < row.p.size(); ++j) {
      const int64_t key = row.first + static_cast<int64_t>(j);
      const double ds = row.p[j] * (dp[j] - delta) * f.scale;
      for (int64_t c = 0; c < d; ++c) {
        op.dq[at * f.q_stride + head * d + c] += static_cast<T>(ds * f.k[key * f.k_stride + kv * d + c]);
        op.dk[key * f.k_stride + kv * d + c] += static_cast<T>(ds * q[c]);
        op.dv[key * f.v_stride + kv * d + c] += static_cast<T>(row.p[j] * row.factor[j] * d_o[c]);
      }
    }
  });
}

template <typename T>
double masked_input(const LowRank<T>& op, const LowRankSlice& slice, int64_t t, int64_t i) {
  const int64_t element = t * op.in + i;
  const double factor = slice.mask.active() ? mask_factor(slice.mask, static_cast<uint64_t>(element)) : 1.0;
  return factor * static_cast<double>(op.x[element]);
}

template <typename T>
void low_rank(const LowRank<T>& op) {
  using Factor = typename LowRank<T>::Factor;
  for (int64_t t = 0; t < op.rows; ++t) {
    for (int64_t s = 0; s < op.num_slices; ++s) {
      for (int64_t r = op.slices[s].begin; r < op.slices[s].end; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < op.in; ++i)
          sum += masked_input(op, op.slices[s], t, i) * op.down[r * op.in + i];
        op.z[t * op.rank + r] = static_cast<Factor>(sum);
      }
    }
    for (int64_t k = 0; k < op.num_outputs; ++k) {
      const LowRankOutput<T>& output = op.outputs[k];
      for (int64_t o = 0; o < output.width; ++o) {
        double sum = 0;
        for (int64_t r = output.begin; r < output.end; ++r) {
          sum +=
              static_cast<double>(op.z[t * op.rank + r]) * output.up_t[(r - output.begin) * output.width + o];
        }
        T& y = output.y[t * output.stride + o];
        y = static_cast<T>(static_cast<double>(y) + sum);
      }
    }
  }
}

/// The gradient of z[t, r], and the share of row t in that of up_t.
template <typename T>
double low_rank_dz(const LowRank<T>& f, int64_t t, int64_t r) {
  using Factor = typename LowRank<T>::Factor;
  const LowRankOutput<T>* output = f.outputs;
  while (r >= output->end) ++output;
  const int64_t row = (r - output->begin) * output->width;
  double dz = 0;
  for (int64_t o = 0; o < output->width; ++o) {
    const double dy = static_cast<double>(output->dy[t * output->stride + o]);
    dz += dy * output->up_t[row + o];
    output->d_up_t[row + o] += static_cast<Factor>(dy * f.z[t * f.rank + r]);
  }
  return dz;
}

template <typename T>
void low_rank_backward(const LowRankBackward<T>& op) {
  using Factor = typename LowRank<T>::Factor;
  const LowRank<T>& f = op.forward;
  std::fill(op.d_down, op.d_down + f.rank * f.in, Factor{0});
  for (int64_t k = 0; k < f.num_outputs; ++k) {
    const LowRankOutput<T>& output = f.outputs[k];
    std::fill(output.d_up_t, output.d_up_t + (output.end - output.begin) * output.width, Factor{0});
  }
  for (int64_t t = 0; t < f.rows; ++t) {
    for (int64_t s = 0; s < f.num_slices; ++s) {
      const LowRankSlice& slice = f.slices[s];
      for (int64_t r = slice.begin; r < slice.end; ++r) {
        const double dz = low_rank_dz(f, t, r);
        for (int64_t i = 0; i < f.in; ++i) {
          op.d_down[r * f.in + i] += static_cast<Factor>(dz * masked_input(f, slice, t, i));
          if (op.dx == nullptr) continue;
          const int64_t element = t * f.in + i;
          const double factor =
              slice.mask.active() ? mask_factor(slice.mask, static_cast<uint64_t>(element)) : 1.0;
          op.dx[element] += static_cast<T>(factor * dz * f.down[r * f.in + i]);
        }
      }
    }
  }
}

template <typename T>
constexpr KernelTable<T> make_table() {
  return {&dropout<T>,
          &embedding_sum<T>,
          &add_row_noise<T>,
          &residual_layer_norm<T>,
          &residual_layer_norm_backward<T>,
          &activation<T>,
          &multiply<T>,
          &low_rank<T>,
          &low_rank_backward<T>,
          &segment_attention<T>,
          &segment_attention_backward<T>};
}

}  // namespace

double mask_factor(const DropoutMask& mask, uint64_t element) {
  const AesBlock bytes = ars(mask.key, element / 8, kMaskRounds);
  const size_t at = element % 8 * 2;
  const uint32_t number = bytes[at] | static_cast<uint32_t>(bytes[at + 1]) << 8;
  return number >= mask.threshold() ? mask.scale() : 0.0;
}

double normal(uint64_t key, int64_t row, int64_t column) {
  const auto counter = static_cast<uint64_t>(column / 64 * 16 + column % 16);
  const std::array<uint32_t, 4> words = philox4x32(key, counter, static_cast<uint64_t>(row), kNoiseRounds);
  const int64_t number = column % 64 / 16;
  const size_t pair = number < 2 ? 0 : 2;
  const double radius = std::sqrt(-2.0 * std::log(((words[pair] >> 8) + 1) * 0x1.0p-24));
  const double angle = 2.0 * M_PI * (words[pair + 1] >> 8) * 0x1.0p-24;
  return radius * (number % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

const KernelTable<double>& double_table() {
  static constexpr KernelTable<double> table = make_table<double>();
  return table;
}

const KernelTable<float>& float_table() {
  static constexpr KernelTable<float> table = make_table<float>();
  return table;
}

}  // namespace msplora::kernels::ref
