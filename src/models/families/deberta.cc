#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "models/families/family.h"
#include "models/families/parts.h"

/// DeBERTa v2 and v3: BERT whose scores have terms by relative positions, in buckets that widen with the
/// distance (He et al., ICLR 2021 and 2023).
namespace msplora {
namespace {

using detail::ConfigReader;

// Up to half the buckets each distance has its own; the others share what is left on a logarithmic scale.
int64_t bucket_of(int64_t distance, int64_t buckets, int64_t farthest) {
  const int64_t middle = buckets / 2, size = std::abs(distance);
  if (buckets <= 0 || size <= middle) return distance;
  const double m = static_cast<double>(middle);
  const double scaled = std::log(static_cast<double>(size) / m) /
                        std::log(static_cast<double>(farthest - 1) / m) * static_cast<double>(middle - 1);
  const auto bucket = static_cast<int64_t>(std::ceil(scaled)) + middle;
  return distance < 0 ? -bucket : bucket;
}

// "p2c|c2p", or a list of both.
std::string attention_kinds(ConfigReader& config) {
  const nlohmann::json* value = config.find("pos_att_type");
  if (value == nullptr) return {};
  std::string kinds;
  if (value->is_string()) kinds = value->get<std::string>();
  if (value->is_array()) {
    for (const auto& kind : *value) kinds += (kind.is_string() ? kind.get<std::string>() : "?") + "|";
  }
  std::string left = kinds;
  for (const char* known : {"p2c", "c2p", "|", " "}) {
    for (size_t at = left.find(known); at != std::string::npos; at = left.find(known))
      left.erase(at, std::string(known).size());
  }
  if (kinds.empty() || !left.empty())
    config.wrong("pos_att_type", "c2p and p2c, in a list or with a bar between", *value);
  return kinds;
}

RelativeSpec relative_terms(ConfigReader& config, double eps) {
  RelativeSpec relative;
  const std::string kinds = attention_kinds(config);
  if (!config.flag("relative_attention", false)) return relative;
  const int64_t positions = config.size("max_position_embeddings");
  const nlohmann::json* farthest_value = config.find("max_relative_positions");
  const int64_t given = farthest_value != nullptr && farthest_value->is_number_integer()
                            ? detail::saturated(*farthest_value)
                            : -1;
  if (given > detail::kMaxSize)
    config.wrong("max_relative_positions", fmt::format("at most {}", detail::kMaxSize), *farthest_value);
  const int64_t farthest = given < 1 ? positions : given;
  const nlohmann::json* buckets_value = config.find("position_buckets");
  const int64_t buckets = buckets_value != nullptr && buckets_value->is_number_integer()
                              ? std::max<int64_t>(detail::saturated(*buckets_value), 0)
                              : 0;
  if (buckets > 0 && (buckets < 4 || farthest <= buckets / 2 + 1)) {
    config.problem("position_buckets",
                   fmt::format("expected at least 4 and less than twice the {} relative positions, found {}",
                               farthest, buckets));
    return relative;
  }
  const int64_t span = buckets > 0 ? buckets : farthest;
  relative.table = "deberta.encoder.rel_embeddings.weight";
  relative.rows = 2 * span;
  relative.has_keys = kinds.find("c2p") != std::string::npos;
  relative.has_queries = kinds.find("p2c") != std::string::npos;
  relative.dropout = config.dropout("hidden_dropout_prob", 0.1);
  if (config.text("norm_rel_ebd", "none").find("layer_norm") != std::string::npos)
    relative.norm = detail::layer_norm("deberta.encoder.LayerNorm", eps);
  for (int64_t d = 1 - positions; d < positions; ++d) {
    const int64_t row = bucket_of(d, buckets, farthest) + span;
    relative.bucket_of.push_back(static_cast<int32_t>(std::clamp<int64_t>(row, 0, 2 * span - 1)));
  }
  return relative;
}

// Where relative positions do not use the layers of the tokens.
void add_position_layers(Architecture& a, int64_t d) {
  for (BlockSpec& block : a.blocks) {
    std::vector<LinearSpec> own;
    if (a.relative.has_keys) own.push_back({LinearRole::kPositionKey, "attention.self.pos_key_proj", d, d});
    if (a.relative.has_queries)
      own.push_back({LinearRole::kPositionQuery, "attention.self.pos_query_proj", d, d});
    block.linears.insert(block.linears.begin() + 3, own.begin(), own.end());
  }
}

ConvolutionSpec convolution(ConfigReader& config, double eps) {
  ConvolutionSpec spec;
  spec.kernel = config.size("conv_kernel_size", 0, 0);
  if (spec.kernel == 0) return spec;
  if (spec.kernel % 2 == 0)
    config.problem("conv_kernel_size", fmt::format("expected an odd number, found {}", spec.kernel));
  if (const int64_t groups = config.size("conv_groups", 1); groups != 1)
    config.problem("conv_groups", fmt::format("expected 1, found {}", groups));
  spec.name = "deberta.encoder.conv.conv";
  spec.activation = config.activation("conv_act", "tanh");
  spec.norm = detail::layer_norm("deberta.encoder.conv.LayerNorm", eps);
  spec.dropout = config.dropout("hidden_dropout_prob", 0.1);
  return spec;
}

HeadSpec deberta_head(ConfigReader& config, const Architecture& a, ModelTask task) {
  const int64_t d = config.size("hidden_size");
  const double eps = config.real("layer_norm_eps", 1e-7),
               hidden_dropout = config.dropout("hidden_dropout_prob", 0.1);
  const kernels::Activation activation = config.activation("hidden_act", "gelu");
  HeadStage pooler = detail::classifier_stage("pooler.dense", config.dropout("pooler_dropout", 0.0), d, d);
  pooler.modules = {"pooler"};
  pooler.activation = config.activation("pooler_hidden_act", "gelu");
  pooler.trained_if_absent = true;
  const double dropout = config.dropout("cls_dropout", hidden_dropout);
  if (const int64_t width = config.size("pooler_hidden_size", d); width != d)
    config.problem("pooler_hidden_size", fmt::format("expected hidden_size = {}, found {}", d, width));
  // The names of Hugging Face's older head, which most files have, and of DeBERTa's own.
  const std::string own = "lm_predictions.lm_head.", older = "cls.predictions.";
  const bool is_older = config.flag("legacy", true);
  HeadSpec head;
  if (task == ModelTask::kSequenceClassification) {
    head.pool = Pool::kFirst;
    head.stages = {pooler, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm && is_older) {
    head = detail::tied_head(
        detail::transform_stage({"cls"}, older + "transform.dense", older + "transform.LayerNorm", d,
                                a.embeddings.width, eps, activation),
        older + "decoder", older + "bias");
  } else if (task == ModelTask::kMaskedLm) {
    head = detail::tied_head(
        detail::transform_stage({"lm_predictions"}, own + "dense", own + "LayerNorm", d, d, eps, activation),
        own + "decoder", own + "bias");
  }
  return head;
}

Architecture describe_deberta(ConfigReader& config, ModelTask task) {
  const double eps = config.real("layer_norm_eps", 1e-7);
  const int64_t d = config.size("hidden_size"), narrow = config.size("embedding_size", d);
  Architecture a = detail::start(config, task, "deberta.");
  a.longest = config.size("max_position_embeddings");
  a.embeddings = detail::bert_embeddings(config, "deberta.", eps);
  a.embeddings.type_rows = config.size("type_vocab_size", 0, 0);
  a.embeddings.width = narrow;
  if (!config.flag("position_biased_input", true)) a.embeddings.position_rows = 0;
  if (narrow != d) {
    a.embeddings.projection =
        LinearSpec{LinearRole::kEmbedding, "deberta.embeddings.embed_proj", narrow, d, /*has_bias=*/false};
    a.embeddings.projects_first = true;
  }
  a.blocks = detail::bert_blocks(config, "deberta.", eps, "_proj");
  a.relative = relative_terms(config, eps);
  // Counted where the terms are not used, too.
  const std::string kinds = attention_kinds(config);
  const int64_t terms =
      1 + (kinds.find("c2p") != std::string::npos) + (kinds.find("p2c") != std::string::npos);
  for (BlockSpec& block : a.blocks) {
    block.attention.shape.scale =
        1.0 / std::sqrt(static_cast<double>(block.attention.shape.head_dim * terms));
  }
  if (!config.flag("share_att_key", false)) add_position_layers(a, d);
  config.refuse_flags({"is_decoder", "add_cross_attention"});
  a.convolution = convolution(config, eps);
  a.head = deberta_head(config, a, task);
  a.ignored = {"mask_predictions.", "lm_predictions."};
  return a;
}

}  // namespace

Family deberta_v2_family() {
  return {"deberta-v2",
          "DebertaV2",
          {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"query_proj", "value_proj"},
          0,
          describe_deberta};
}

}  // namespace msplora
