#include "msplora/adapters/files.h"

#include <filesystem>
#include <memory>

#include "adapters/files_detail.h"
#include "msplora/core/error.h"

namespace msplora {

namespace fs = std::filesystem;

AdapterForm adapter_form(const fs::path& directory) {
  std::error_code ignored;
  if (fs::is_regular_file(directory / detail::kNativeConfig, ignored)) return AdapterForm::kNative;
  if (fs::is_regular_file(directory / detail::kPeftConfig, ignored)) return AdapterForm::kPeft;
  return AdapterForm::kNone;
}

std::unique_ptr<Adapter> load_adapter(const fs::path& directory, AdapterTarget target) {
  switch (adapter_form(directory)) {
    case AdapterForm::kNative:
      return detail::load_native_adapter(directory, std::move(target));
    case AdapterForm::kPeft:
      return detail::load_peft_adapter(directory, std::move(target));
    case AdapterForm::kNone:
      break;
  }
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    throw Error(ErrorCode::kIo, directory.string(), "no such directory");
  }
  throw Error(ErrorCode::kIo, directory.string(),
              "holds no adapter: neither adapter.json nor adapter_config.json");
}

}  // namespace msplora
