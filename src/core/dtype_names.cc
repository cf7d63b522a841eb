#include "msplora/core/dtype_names.h"

#include <map>
#include <string>

namespace msplora {

std::string usual_dtype_name(const std::string& name) {
  static const std::map<std::string, std::string> kNames = {
      {"float32", "float32"}, {"fp32", "float32"},      {"f32", "float32"},   {"float", "float32"},
      {"single", "float32"},  {"bfloat16", "bfloat16"}, {"bf16", "bfloat16"}, {"float16", "float16"},
      {"fp16", "float16"},    {"f16", "float16"},       {"half", "float16"},  {"float64", "float64"},
      {"fp64", "float64"},    {"f64", "float64"},       {"double", "float64"}};
  std::string key = name;
  for (char& c : key) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (key.starts_with("torch.")) key.erase(0, 6);
  const auto found = kNames.find(key);
  return found == kNames.end() ? name : found->second;
}

}  // namespace msplora
