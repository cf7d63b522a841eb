#include "kernels/ref/reference.h"

#include <algorithm>

namespace msplora::kernels::ref {
namespace {

double masked_input(const LowRank<double>& op, const LowRankSlice& slice, int64_t t, int64_t i) {
  const int64_t element = t * op.in + i;
  const double factor = mask_factor(slice.mask, element);
  return factor * op.x[element];
}

/// The gradient of z[t, r], and the share of row t in that of up_t.
double low_rank_dz(const LowRank<double>& f, int64_t t, int64_t r) {
  const LowRankOutput<double>* output = f.outputs;
  while (r >= output->end) ++output;
  const int64_t row = (r - output->begin) * output->width;
  double dz = 0;
  for (int64_t o = 0; o < output->width; ++o) {
    const double dy = output->dy[t * output->stride + o];
    dz += dy * output->up_t[row + o];
    output->d_up_t[row + o] += dy * f.z[t * f.rank + r];
  }
  return dz;
}

}  // namespace

void low_rank(const LowRank<double>& op) {
  for (int64_t t = 0; t < op.rows; ++t) {
    for (int64_t s = 0; s < op.num_slices; ++s) {
      for (int64_t r = op.slices[s].begin; r < op.slices[s].end; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < op.in; ++i)
          sum += masked_input(op, op.slices[s], t, i) * op.down[r * op.in + i];
        op.z[t * op.rank + r] = sum;
      }
    }
    for (int64_t k = 0; k < op.num_outputs; ++k) {
      const LowRankOutput<double>& output = op.outputs[k];
      for (int64_t o = 0; o < output.width; ++o) {
        double sum = 0;
        for (int64_t r = output.begin; r < output.end; ++r) {
          sum += op.z[t * op.rank + r] * output.up_t[(r - output.begin) * output.width + o];
        }
        double& y = output.y[t * output.stride + o];
        y += sum;
      }
    }
  }
}

void low_rank_backward(const LowRankBackward<double>& op) {
  const LowRank<double>& f = op.forward;
  std::fill(op.d_down, op.d_down + f.rank * f.in, 0.0);
  for (int64_t k = 0; k < f.num_outputs; ++k) {
    const LowRankOutput<double>& output = f.outputs[k];
    std::fill(output.d_up_t, output.d_up_t + (output.end - output.begin) * output.width, 0.0);
  }
  for (int64_t t = 0; t < f.rows; ++t) {
    for (int64_t s = 0; s < f.num_slices; ++s) {
      const LowRankSlice& slice = f.slices[s];
      for (int64_t r = slice.begin; r < slice.end; ++r) {
        const double dz = low_rank_dz(f, t, r);
        if (op.dz) op.dz[t * f.rank + r] = dz * (slice.mask.active() ? slice.mask.scale() : 1.0);
        for (int64_t i = 0; i < f.in; ++i) {
          op.d_down[r * f.in + i] += dz * masked_input(f, slice, t, i);
          if (op.dx == nullptr) continue;
          const int64_t element = t * f.in + i;
          const double factor = mask_factor(slice.mask, element);
          op.dx[element] += factor * dz * f.down[r * f.in + i];
        }
      }
    }
  }
}

}  // namespace msplora::kernels::ref
