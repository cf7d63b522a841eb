#include "adapters/peft_names.h"

#include <string>
#include <string_view>

namespace msplora::detail {
namespace {

/// Replaces the first occurrence; says whether there was one.
bool replace(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) return false;
  text.replace(at, from.size(), to);
  return true;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::string refusal_of(const std::string& key) {
  if (contains(key, ".lora_B.bias")) return "a bias of lora_B (lora_bias) is not supported";
  for (const char digit : std::string_view("0123456789")) {
    if (contains(key, std::string("lora_A_") + digit) || contains(key, std::string("lora_B_") + digit)) {
      return "written by the MSPLoRA authors' released code, which is not PEFT's LoRA form";
    }
  }
  return {};
}

}  // namespace

PeftKey parse_peft_key(const std::string& key, const PeftForm& form) {
  if (std::string refusal = refusal_of(key); !refusal.empty()) return {key, std::move(refusal)};
  std::string name = key;
  const std::string_view prefix = kPeftPrefix;
  for (const std::string& shared : form.shared) {
    if (name == kPeftSharedPrefix + shared) return {shared, ""};
  }
  if (name.rfind(prefix, 0) != 0) {
    return {key, "does not begin with base_model.model., so PEFT itself would ignore it"};
  }
  name.erase(0, prefix.size());
  if (contains(name, ".original_module.")) return {"", ""};
  if (!form.mark.empty() && contains(name, form.mark)) {
    replace(name, ".default.", ".");
    if (!form.skipped.empty() && name.ends_with(form.skipped)) return {"", ""};
  }
  if (!replace(name, ".modules_to_save.default.", ".")) replace(name, ".modules_to_save.", ".");
  replace(name, ".lora_A.default.weight", ".lora_A.weight");
  replace(name, ".lora_B.default.weight", ".lora_B.weight");
  for (const auto* spellings : {&kPeftDown, &kPeftUp}) {
    const std::string of_words = (*spellings)[1];
    if (!replace(name, of_words + ".default", (*spellings)[0])) replace(name, of_words, (*spellings)[0]);
  }
  for (const char* spelling : {".lora_magnitude_vector.default.weight", ".lora_magnitude_vector.default",
                               ".lora_magnitude_vector.weight"}) {
    if (replace(name, spelling, ".lora_magnitude_vector")) break;
  }
  replace(name, ".base_layer.bias", ".bias");
  replace(name, ".base_layer.weight", ".weight");
  return {std::move(name), ""};
}

}  // namespace msplora::detail
