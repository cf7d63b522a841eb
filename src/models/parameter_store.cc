#include "models/parameter_store.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <string>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/nn/dtype.h"

namespace msplora {
namespace {

bool starts_with_any(const std::string& name, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return name.rfind(prefix, 0) == 0; });
}

std::string list(const std::string& title, const std::vector<std::string>& names) {
  if (names.empty()) return {};
  constexpr size_t kShown = 20;
  std::string text = fmt::format("\n  {} ({}):", title, names.size());
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) text += "\n    " + names[i];
  if (names.size() > kShown) text += fmt::format("\n    ... and {} more", names.size() - kShown);
  return text;
}

}  // namespace

ParameterStore::ParameterStore(const WeightSource* source, const ModelLoadOptions& options,
                               const Architecture& architecture)
    : source_(source),
      options_(options),
      initializer_range_(architecture.initializer_range),
      base_prefix_(architecture.base_prefix),
      wrappers_(architecture.wrappers),
      buffers_(architecture.buffers) {
  buffers_.insert(buffers_.end(), {".position_ids", ".rotary_emb.inv_freq"});
}

std::string ParameterStore::find(const std::string& name) const {
  if (source_ == nullptr) return {};
  std::vector<std::string> spellings = {name};
  if (name.starts_with(base_prefix_)) {
    spellings.push_back(name.substr(base_prefix_.size()));
    // Decoders made for answering questions call the part below the head so.
    spellings.push_back("transformer." + spellings.back());
  }
  for (const std::string& wrapper : wrappers_) {
    spellings.push_back(wrapper + name);
    if (name.starts_with(base_prefix_)) spellings.push_back(wrapper + name.substr(base_prefix_.size()));
  }
  // Checkpoints converted from TensorFlow call the norm's parameters gamma and beta.
  for (size_t i = 0, n = spellings.size(); i < n; ++i) {
    const std::string spelling = spellings[i];
    for (const auto& [now, then] :
         {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, std::pair{"LayerNorm.bias", "LayerNorm.beta"}}) {
      const size_t at = spelling.rfind(now);
      if (at != std::string::npos) spellings.push_back(spelling.substr(0, at) + then);
    }
  }
  for (const std::string& spelling : spellings)
    if (source_->contains(spelling)) return spelling;
  return {};
}

bool ParameterStore::contains(const std::string& name) const {
  return !find(name).empty();
}

at::Tensor ParameterStore::draw(const std::string& name, const std::vector<int64_t>& shape, Init init) const {
  at::Tensor tensor = init == Init::kOne ? at::ones(shape, at::kFloat) : at::zeros(shape, at::kFloat);
  if (init == Init::kNormal) {
    RandomStream stream(options_.seed, "init." + name);
    float* values = tensor.data_ptr<float>();
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      values[i] = static_cast<float>(stream.normal() * initializer_range_);
    }
  }
  return tensor;
}

at::Tensor ParameterStore::convert(const at::Tensor& stored, Role role) const {
  const bool is_exact = options_.compute_dtype == at::kDouble;
  const bool is_matrix = role == Role::kMatrix && !options_.keep_float32;
  const at::ScalarType dtype = is_matrix || is_exact ? options_.compute_dtype : at::kFloat;
  // Only frozen matrices may stay views of the read-only map: everything else can be trained in place.
  const bool must_copy = !is_matrix;
  return stored.to(options_.device, dtype, /*non_blocking=*/false, must_copy);
}

bool ParameterStore::is_of_foreign_head(const std::string& name) const {
  return starts_with_any(name, foreign_head_);
}

at::Tensor ParameterStore::made(const std::string& name, const std::vector<int64_t>& shape, Role role,
                                Init init) const {
  const auto meta = at::TensorOptions(at::kFloat).device(at::kMeta);
  if (shapes_alone_) return at::empty(shape, meta);
  // Where the checkpoint does not fit there will be no model, and a shape may be as wrong as it likes.
  if (!missing_.empty() || !misshaped_.empty()) return at::empty({}, meta).expand(shape);
  return convert(draw(name, shape, init), role);
}

std::string ParameterStore::stored(const std::string& name, const std::vector<int64_t>& shape, Role role) {
  const std::string spelling = is_of_foreign_head(name) ? std::string() : find(name);
  if (spelling.empty()) {
    if (source_ != nullptr) (role == Role::kHead ? fresh_ : missing_).push_back(name);
    return {};
  }
  used_.insert(spelling);
  const std::vector<int64_t> found = source_->shape(spelling);
  if (found != shape) {
    std::vector<int64_t> other_count = found;
    if (!other_count.empty()) other_count.front() = shape.front();
    if (role == Role::kHead && options_.num_labels > 0 && other_count == shape) {
      fresh_.push_back(name);
      replaced_rows_ = found.front();
    } else {
      misshaped_.push_back(
          fmt::format("{}: expected [{}], found [{}]", name, fmt::join(shape, ", "), fmt::join(found, ", ")));
    }
    return {};
  }
  if (options_.random_init || shapes_alone_) return {};
  const at::ScalarType dtype = source_->dtype(spelling);
  if (!at::isFloatingType(dtype)) {
    misshaped_.push_back(
        fmt::format("{}: expected a floating-point tensor, found {}", name, dtype_name(dtype)));
    return {};
  }
  if (!source_->is_finite(spelling)) not_finite_.push_back(name);
  return spelling;
}

at::Tensor ParameterStore::take(const std::string& name, std::vector<int64_t> shape, Role role, Init init) {
  const std::string found = stored(name, shape, role);
  return found.empty() ? made(name, shape, role, init) : convert(source_->tensor(found), role);
}

std::shared_ptr<Weight> ParameterStore::weight(const std::string& name, int64_t out, int64_t in, Role role,
                                               bool is_transposed) {
  const std::vector<int64_t> shape =
      is_transposed ? std::vector<int64_t>{in, out} : std::vector<int64_t>{out, in};
  const std::string found = stored(name, shape, role);
  const bool is_frozen = role == Role::kMatrix && !options_.keep_float32 && options_.device.is_cpu();
  if (!found.empty() && is_frozen && packs_weights(options_.compute_dtype, out, in)) {
    auto frozen = source_->weight(found, options_.compute_dtype, is_transposed);
    frozen->let_go();  // its numbers have been looked at
    return std::make_shared<Weight>(std::move(frozen));
  }
  const at::Tensor tensor =
      found.empty() ? made(name, shape, role, Init::kNormal) : convert(source_->tensor(found), role);
  if (!is_transposed) return std::make_shared<Weight>(tensor);
  return std::make_shared<Weight>(tensor.is_meta() ? tensor.t() : tensor.t().contiguous());
}

Linear ParameterStore::linear(const std::string& path, const LinearSpec& spec, Role role) {
  std::shared_ptr<Weight> matrix = weight(path + ".weight", spec.out, spec.in, role, spec.is_transposed);
  at::Tensor bias;
  if (spec.has_bias)
    bias = take(path + ".bias", {spec.out}, role == Role::kHead ? role : Role::kExact, Init::kZero);
  return {path, std::move(matrix), std::move(bias)};
}

void ParameterStore::finish(const std::string& where, const std::vector<std::string>& ignorable,
                            ModelLoadReport* report) {
  std::vector<std::string> unexpected, ignored;
  if (source_ != nullptr) {
    for (const std::string& name : source_->names()) {
      if (used_.count(name)) continue;
      const bool is_buffer = std::any_of(buffers_.begin(), buffers_.end(),
                                         [&](const std::string& end) { return name.ends_with(end); });
      (is_buffer || is_of_foreign_head(name) || starts_with_any(name, ignorable) ? ignored : unexpected)
          .push_back(name);
    }
  }
  if (!not_finite_.empty() && missing_.empty() && misshaped_.empty() && unexpected.empty()) {
    throw Error(ErrorCode::kNumerics, where, "weights hold NaN or infinity" + list("tensors", not_finite_),
                "the checkpoint is damaged; get it again or train from an earlier one");
  }
  if (!missing_.empty() || !misshaped_.empty() || !unexpected.empty() || !not_finite_.empty()) {
    throw Error(ErrorCode::kModel, where,
                "the checkpoint does not fit its config.json" + list("missing", missing_) +
                    list("mis-shaped", misshaped_) + list("unexpected", unexpected) +
                    list("not finite", not_finite_));
  }
  if (report != nullptr) {
    report->fresh = fresh_;
    report->ignored = ignored;
    report->replaced_rows = replaced_rows_;
  }
}

}  // namespace msplora
