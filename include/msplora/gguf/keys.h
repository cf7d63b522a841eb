#pragma once

/// Names and constants of GGUF files, which reading and writing share. The values are those of gguf.md and
/// of llama.cpp's constants.
#include <cstdint>
#include <string>

namespace msplora {

/// Types of metadata values, by the numbers that files hold.
enum class GgufValueType : int32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,  // one byte, 0 or 1
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

inline constexpr char kGgufMagic[] = "GGUF";
inline constexpr uint32_t kGgufVersion = 3;          // what is written; 2 is read too
inline constexpr uint32_t kGgufAlignment = 32;       // of tensors, unless general.alignment says otherwise
inline constexpr int64_t kGgufMaxDimensions = 4;     // of a tensor
inline constexpr int64_t kGgufMaxName = 63;          // bytes of a tensor's name
inline constexpr uint64_t kGgufMaxLength = 1 << 30;  // of strings and arrays
inline constexpr uint64_t kGgufMaxEntries = 100000;  // keys, tensors: far above what any model has

/// Types of tokens (tokenizer.ggml.token_type).
enum class GgufTokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

namespace gguf_key {

inline constexpr char kAlignment[] = "general.alignment";
inline constexpr char kArchitecture[] = "general.architecture";
inline constexpr char kType[] = "general.type";  // "model" or "adapter"
inline constexpr char kName[] = "general.name";
inline constexpr char kFileType[] = "general.file_type";  // for people; may be absent
inline constexpr char kQuantizationVersion[] = "general.quantization_version";
inline constexpr int64_t kQuantizationVersionValue = 2;

inline constexpr char kSplitNumber[] = "split.no";
inline constexpr char kSplitCount[] = "split.count";
inline constexpr char kSplitTensors[] = "split.tensors.count";

inline constexpr char kAdapterType[] = "adapter.type";         // "lora"
inline constexpr char kAdapterAlpha[] = "adapter.lora.alpha";  // float32

// Of a model, behind the name of its architecture and a point: "llama.context_length".
inline constexpr char kContextLength[] = "context_length";
inline constexpr char kEmbeddingLength[] = "embedding_length";
inline constexpr char kBlockCount[] = "block_count";
inline constexpr char kFeedForwardLength[] = "feed_forward_length";
inline constexpr char kVocabSize[] = "vocab_size";
inline constexpr char kExpertCount[] = "expert_count";
inline constexpr char kHeadCount[] = "attention.head_count";
inline constexpr char kHeadCountKv[] = "attention.head_count_kv";
inline constexpr char kKeyLength[] = "attention.key_length";
inline constexpr char kValueLength[] = "attention.value_length";
inline constexpr char kRmsEpsilon[] = "attention.layer_norm_rms_epsilon";
inline constexpr char kNormEpsilon[] = "attention.layer_norm_epsilon";
inline constexpr char kSlidingWindow[] = "attention.sliding_window";
inline constexpr char kAttentionSoftCap[] = "attn_logit_softcapping";
inline constexpr char kFinalSoftCap[] = "final_logit_softcapping";
inline constexpr char kRopeDimensions[] = "rope.dimension_count";
inline constexpr char kRopeBase[] = "rope.freq_base";
inline constexpr char kRopeBaseWindow[] = "rope.freq_base_swa";
inline constexpr char kRopeScalingType[] = "rope.scaling.type";
inline constexpr char kRopeScalingFactor[] = "rope.scaling.factor";
inline constexpr char kRopeScalingContext[] = "rope.scaling.original_context_length";
inline constexpr char kRopeScalingAttention[] = "rope.scaling.attn_factor";

inline constexpr char kTokenizerModel[] = "tokenizer.ggml.model";
inline constexpr char kTokenizerPre[] = "tokenizer.ggml.pre";
inline constexpr char kTokens[] = "tokenizer.ggml.tokens";
inline constexpr char kScores[] = "tokenizer.ggml.scores";
inline constexpr char kTokenTypes[] = "tokenizer.ggml.token_type";
inline constexpr char kMerges[] = "tokenizer.ggml.merges";
inline constexpr char kBosId[] = "tokenizer.ggml.bos_token_id";
inline constexpr char kEosId[] = "tokenizer.ggml.eos_token_id";
inline constexpr char kEotId[] = "tokenizer.ggml.eot_token_id";
inline constexpr char kEomId[] = "tokenizer.ggml.eom_token_id";
inline constexpr char kUnknownId[] = "tokenizer.ggml.unknown_token_id";
inline constexpr char kSeparatorId[] = "tokenizer.ggml.seperator_token_id";  // spelled so in files
inline constexpr char kPaddingId[] = "tokenizer.ggml.padding_token_id";
inline constexpr char kClassId[] = "tokenizer.ggml.cls_token_id";
inline constexpr char kMaskId[] = "tokenizer.ggml.mask_token_id";
inline constexpr char kAddBos[] = "tokenizer.ggml.add_bos_token";
inline constexpr char kAddEos[] = "tokenizer.ggml.add_eos_token";
inline constexpr char kAddSpacePrefix[] = "tokenizer.ggml.add_space_prefix";
inline constexpr char kRemoveExtraSpaces[] = "tokenizer.ggml.remove_extra_whitespaces";
inline constexpr char kHuggingFaceTokenizer[] = "tokenizer.huggingface.json";
inline constexpr char kChatTemplate[] = "tokenizer.chat_template";

}  // namespace gguf_key

// Tensors of angles, beside those of the model's layers.
inline constexpr char kGgufRopeFactors[] =
    "rope_freqs.weight";  // what frequencies are divided by (Llama 3.1)
inline constexpr char kGgufRopeLong[] = "rope_factors_long.weight";  // LongRoPE
inline constexpr char kGgufRopeShort[] = "rope_factors_short.weight";

}  // namespace msplora
