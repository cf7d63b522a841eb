#pragma once

#include <optional>
#include <string>

#include "adapters/method.h"

namespace msplora::detail {

inline constexpr const char* kPeftPrefix = "base_model.model.";
/// What PEFT calls the factors of a linear layer and of a table of words, behind the module's path. In memory
/// both have the first names.
inline constexpr const char* kPeftDown[] = {".lora_A.weight", ".lora_embedding_A"};
inline constexpr const char* kPeftUp[] = {".lora_B.weight", ".lora_embedding_B"};
inline constexpr const char* kPeftSharedPrefix = "base_model.";  // of tensors that belong to no module

/// Where a tensor of a PEFT file belongs.
struct PeftKey {
  std::string name;     // ours: "<path>.lora_A.weight", "<path>.glora_A.Xd", "<path>.bias", or a parameter's
                        // name; "" to skip the tensor
  std::string refusal;  // why it cannot be used, or ""
};

/// Our name of a key in adapter_model.safetensors. Tolerates the spellings of other PEFT versions: the
/// adapter name
/// ("lora_A.default.weight"), "modules_to_save.default" and the "original_module" copies beside them
/// (skipped).
PeftKey parse_peft_key(const std::string& key, const PeftForm& form);

}  // namespace msplora::detail
