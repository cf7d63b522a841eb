#pragma once

#include <filesystem>

namespace msplora {

/// Where an adapter lies that people name by its directory, its file or its run.
struct AdapterPlace {
  std::filesystem::path adapter;
  std::filesystem::path run;  // holds recipe and checkpoints; "" for an adapter that lies by itself
};
/// Finds it: in the run directory of `train` or `federate` the native adapter, else PEFT's. What holds no
/// adapter is given back as it is: loading it says what is wrong.
AdapterPlace find_adapter(const std::filesystem::path& given);

/// The base that an adapter in any form, or the task.json beside it, names. Throws Error{kUsage} where they
/// name none, or one that is not there; and as load_adapter_facts.
std::filesystem::path base_of_adapter(const std::filesystem::path& adapter);

}  // namespace msplora
