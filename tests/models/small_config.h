#pragma once

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/models/model_config.h"

namespace msplora::model_test {

/// What some families call the keys of the others.
inline const std::map<std::string, std::map<std::string, std::string>>& spellings_of_keys() {
  static const std::map<std::string, std::map<std::string, std::string>> spellings = {
      {"distilbert",
       {{"hidden_size", "dim"},
        {"num_hidden_layers", "n_layers"},
        {"num_attention_heads", "n_heads"},
        {"intermediate_size", "hidden_dim"},
        {"hidden_dropout_prob", "dropout"}}},
      {"gpt2",
       {{"hidden_size", "n_embd"},
        {"num_hidden_layers", "n_layer"},
        {"num_attention_heads", "n_head"},
        {"intermediate_size", "n_inner"},
        {"max_position_embeddings", "n_positions"},
        {"hidden_dropout_prob", "resid_pdrop"},
        {"attention_probs_dropout_prob", "attn_pdrop"}}},
      {"albert", {{"seq_classif_dropout", "classifier_dropout_prob"}}},
      {"modernbert", {{"hidden_dropout_prob", "embedding_dropout"}}}};
  return spellings;
}

/// What makes a small model of the family do what sets it apart.
inline nlohmann::json own_settings(const std::string& model_type) {
  if (model_type == "albert") return {{"embedding_size", 8}};
  if (model_type == "modernbert") return {{"local_attention", 4}, {"classifier_pooling", "mean"}};
  if (model_type == "deberta-v2") {
    return {{"relative_attention", true},   {"position_buckets", 6},          {"pos_att_type", "p2c|c2p"},
            {"norm_rel_ebd", "layer_norm"}, {"position_biased_input", false}, {"share_att_key", true}};
  }
  return nlohmann::json::object();
}

/// What the family calls a key that BERT or Llama has.
inline std::string own_key(const std::string& model_type, const std::string& usual) {
  const auto found = spellings_of_keys().find(model_type);
  if (found == spellings_of_keys().end() || !found->second.contains(usual)) return usual;
  return found->second.at(usual);
}

/// A model type as part of a test's name.
inline std::string test_name(std::string model_type) {
  std::replace(model_type.begin(), model_type.end(), '-', '_');
  return model_type;
}

/// A config.json of any family, without dropout and with tied embeddings unless `keys`, in BERT's and Llama's
/// spelling, say otherwise. Keys that a family does not know do not disturb it.
inline ModelConfig small_config(const std::string& model_type, const nlohmann::json& keys) {
  nlohmann::json config = {{"model_type", model_type},   {"type_vocab_size", 2},
                           {"pad_token_id", 1},          {"num_key_value_heads", nullptr},
                           {"hidden_dropout_prob", 0.0}, {"attention_probs_dropout_prob", 0.0},
                           {"seq_classif_dropout", 0.0}, {"tie_word_embeddings", true}};
  config.update(own_settings(model_type));
  config.update(keys);
  // As many blocks as others have, each of which runs twice.
  if (model_type == "albert" && !keys.contains("num_hidden_groups")) {
    config["num_hidden_groups"] = config["num_hidden_layers"];
    config["num_hidden_layers"] = 2 * config["num_hidden_layers"].get<int64_t>();
  }
  if (!config.contains("head_dim"))
    config["head_dim"] = config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>();
  const nlohmann::json usual_names = config;
  for (const auto& [usual, value] : usual_names.items()) config[own_key(model_type, usual)] = value;
  config["attention_dropout"] = config["attention_probs_dropout_prob"];
  return parse_model_config(config, "config.json");
}

/// The same model with other keys.
inline ModelConfig with_keys(const ModelConfig& config, const nlohmann::json& keys) {
  nlohmann::json changed = config.raw;
  changed.update(keys);
  return parse_model_config(changed, config.where);
}

}  // namespace msplora::model_test
