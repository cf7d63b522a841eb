#include "models/families/parts.h"

namespace msplora::detail {

NormSpec layer_norm(std::string name, double eps) {
  return {NormKind::kLayer, std::move(name), eps};
}

NormSpec rms_norm(std::string name, double eps) {
  return {NormKind::kRms, std::move(name), eps};
}

Architecture start(ConfigReader& config, ModelTask task, std::string prefix) {
  Architecture a;
  a.model_type = config.text("model_type", "");
  a.task = task;
  a.base_prefix = std::move(prefix);
  a.initializer_range = config.real("initializer_range", 0.02, kNonNegative);
  return a;
}

HeadStage classifier_stage(std::string name, double dropout, int64_t in, int64_t out, bool has_bias) {
  HeadStage stage;
  stage.modules = {name};
  stage.linear = {LinearRole::kHead, std::move(name), in, out, has_bias};
  stage.dropout = dropout;
  return stage;
}

double classifier_dropout(ConfigReader& config) {
  return config.dropout("classifier_dropout", config.dropout("hidden_dropout_prob", 0.1));
}

HeadSpec dense_classifier(ConfigReader& config, int64_t width, kernels::Activation activation) {
  const double dropout = classifier_dropout(config);
  HeadSpec head;
  head.pool = Pool::kFirst;
  head.stages = {classifier_stage("classifier.dense", dropout, width, width),
                 classifier_stage("classifier.out_proj", dropout, width, config.num_labels())};
  for (HeadStage& stage : head.stages) stage.modules = {"classifier"};
  head.stages.front().activation = activation;
  return head;
}

HeadStage transform_stage(std::vector<std::string> modules, const std::string& dense, const std::string& norm,
                          int64_t in, int64_t out, double eps, kernels::Activation activation) {
  HeadStage stage = classifier_stage(dense, 0.0, in, out);
  stage.modules = std::move(modules);
  stage.activation = activation;
  stage.norm = layer_norm(norm, eps);
  return stage;
}

HeadSpec tied_head(HeadStage transform, std::string decoder, std::string bias) {
  HeadSpec head;
  head.stages = {std::move(transform)};
  head.is_tied = true;
  head.decoder = std::move(decoder);
  head.decoder_bias = std::move(bias);
  return head;
}

Architecture bert_like(ConfigReader& config, ModelTask task, const std::string& prefix) {
  const double eps = config.real("layer_norm_eps", 1e-12);
  Architecture a = start(config, task, prefix);
  a.embeddings = bert_embeddings(config, prefix, eps);
  a.longest = a.embeddings.position_rows;
  a.blocks = bert_blocks(config, prefix, eps);
  config.flag("tie_word_embeddings", true);
  config.refuse_flags({"is_decoder", "add_cross_attention"});
  const std::string type = config.text("position_embedding_type", "absolute");
  if (type != "absolute") {
    config.problem("position_embedding_type", "expected absolute, found `" + type + "`",
                   "relative position embeddings of BERT and RoBERTa are not supported");
  }
  return a;
}

std::vector<BlockSpec> bert_blocks(ConfigReader& config, const std::string& prefix, double eps,
                                   const std::string& projection_suffix) {
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  const double dropout = config.dropout("hidden_dropout_prob", 0.1);
  BlockSpec block;
  block.linears = {{LinearRole::kQuery, "attention.self.query" + projection_suffix, d, d},
                   {LinearRole::kKey, "attention.self.key" + projection_suffix, d, d},
                   {LinearRole::kValue, "attention.self.value" + projection_suffix, d, d},
                   {LinearRole::kAttentionOutput, "attention.output.dense", d, d},
                   {LinearRole::kUp, "intermediate.dense", d, wide},
                   {LinearRole::kDown, "output.dense", wide, d}};
  block.attention.shape = config.even_heads("num_attention_heads", d);
  block.attention.dropout = config.dropout("attention_probs_dropout_prob", 0.1);
  block.attention_branch.after_sum = layer_norm("attention.output.LayerNorm", eps);
  block.feed_forward_branch.after_sum = layer_norm("output.LayerNorm", eps);
  block.attention_branch.dropout = block.feed_forward_branch.dropout = dropout;
  block.activation = config.activation("hidden_act", "gelu");
  std::vector<BlockSpec> blocks;
  for (const std::string& path : config.layers("num_hidden_layers", prefix + "encoder.layer")) {
    block.path = path;
    blocks.push_back(block);
  }
  return blocks;
}

EmbeddingSpec bert_embeddings(ConfigReader& config, const std::string& prefix, double eps) {
  EmbeddingSpec embeddings;
  embeddings.path = prefix + "embeddings";
  embeddings.words = "word_embeddings";
  embeddings.positions = "position_embeddings";
  embeddings.types = "token_type_embeddings";
  embeddings.rows = config.size("vocab_size");
  embeddings.width = config.size("hidden_size");
  embeddings.position_rows = config.size("max_position_embeddings");
  embeddings.type_rows = config.size("type_vocab_size", 2, 0);
  embeddings.norm = layer_norm("LayerNorm", eps);
  embeddings.dropout = config.dropout("hidden_dropout_prob", 0.1);
  return embeddings;
}

Architecture decoder_base(ConfigReader& config, ModelTask task, double default_eps) {
  Architecture a = start(config, task, "model.");
  a.longest = config.size("max_position_embeddings");
  a.embeddings.path = "model";
  a.embeddings.words = "embed_tokens";
  a.embeddings.rows = config.size("vocab_size");
  a.embeddings.width = config.size("hidden_size");
  a.final_norm = rms_norm("model.norm", config.real("rms_norm_eps", default_eps));
  return a;
}

BlockSpec pre_norm_block(double eps) {
  BlockSpec block;
  block.attention.rotary = 0;
  block.attention_branch.before = rms_norm("input_layernorm", eps);
  block.feed_forward_branch.before = rms_norm("post_attention_layernorm", eps);
  return block;
}

std::vector<LinearSpec> gated_linears(ConfigReader& config, const AttentionShape& shape, bool qkv_bias,
                                      bool output_bias, bool feed_forward_bias) {
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  return {{LinearRole::kQuery, "self_attn.q_proj", d, q, qkv_bias},
          {LinearRole::kKey, "self_attn.k_proj", d, kv, qkv_bias},
          {LinearRole::kValue, "self_attn.v_proj", d, kv, qkv_bias},
          {LinearRole::kAttentionOutput, "self_attn.o_proj", q, d, output_bias},
          {LinearRole::kGate, "mlp.gate_proj", d, wide, feed_forward_bias},
          {LinearRole::kUp, "mlp.up_proj", d, wide, feed_forward_bias},
          {LinearRole::kDown, "mlp.down_proj", wide, d, feed_forward_bias}};
}

void add_blocks(Architecture& architecture, ConfigReader& config, BlockSpec block,
                const std::vector<int64_t>& windows) {
  for (const std::string& path : config.layers("num_hidden_layers", "model.layers")) {
    const size_t layer = architecture.blocks.size();
    block.path = path;
    if (layer < windows.size()) block.attention.shape.window_left = windows[layer] - 1;
    architecture.blocks.push_back(block);
  }
}

void set_decoder_head(Architecture& architecture, ConfigReader& config, bool tied_by_default) {
  const bool is_tied = config.flag("tie_word_embeddings", tied_by_default);
  HeadSpec& head = architecture.head;
  if (architecture.task == ModelTask::kCausalLm) {
    head.decoder = "lm_head";
    head.is_tied = is_tied;
  } else if (architecture.task == ModelTask::kSequenceClassification) {
    head.pool = Pool::kLast;
    head.stages = {classifier_stage("score", 0.0, architecture.hidden_size(), config.num_labels(),
                                    /*has_bias=*/false)};
  }
}

GgufFacts decoder_gguf(std::string architecture) {
  GgufFacts facts;
  facts.architecture = std::move(architecture);
  facts.settings = {{"hidden_size", gguf_key::kEmbeddingLength, GgufSetting::kInteger, true},
                    {"num_hidden_layers", gguf_key::kBlockCount, GgufSetting::kInteger, true},
                    {"intermediate_size", gguf_key::kFeedForwardLength, GgufSetting::kInteger, true},
                    {"num_attention_heads", gguf_key::kHeadCount, GgufSetting::kInteger, true},
                    {"num_key_value_heads", gguf_key::kHeadCountKv, GgufSetting::kInteger},
                    {"head_dim", gguf_key::kKeyLength, GgufSetting::kInteger},
                    {"max_position_embeddings", gguf_key::kContextLength, GgufSetting::kInteger, true},
                    {"rms_norm_eps", gguf_key::kRmsEpsilon, GgufSetting::kReal, true},
                    {"rope_theta", gguf_key::kRopeBase, GgufSetting::kReal}};
  return facts;
}

void set_by_tensor(const GgufFile& file, const char* tensor, const char* key, nlohmann::json& config) {
  config[key] = file.find(tensor) != nullptr;
}

}  // namespace msplora::detail
