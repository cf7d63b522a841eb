#include "core/foreign_file.h"

#include <string>
#include <string_view>

namespace msplora::detail {

std::string hint_for_foreign_file(std::string_view start) {
  if (start.starts_with("version https://git-lfs"))
    return "this is a Git LFS pointer, not the file itself; run `git lfs pull`";
  if (start.starts_with("PK\x03\x04") || start.starts_with("\x80\x02"))
    return "this is a PyTorch pickle; load it with Hugging Face and save it with safe_serialization=True";
  if (start.starts_with("GGUF")) return "this is a GGUF file; give the file itself as the model";
  if (start.starts_with("<")) return "this is a web page; the download failed";
  if (start.size() > 8 && start[8] == '{')
    return "this looks like a safetensors file; give the directory that holds it and its config.json";
  return {};
}

}  // namespace msplora::detail
