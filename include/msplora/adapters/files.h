#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"

namespace msplora {

/// Our native form: adapter.json (method, options, plan, base) and adapter.safetensors with every trainable
/// tensor once, under its own name; shared tensors are re-tied on load.
void save_native_adapter(const Adapter& adapter, const std::filesystem::path& directory);

/// PEFT: adapter_config.json and adapter_model.safetensors, exact: LoRA (levels concatenated, scalings folded
/// into B, lora_alpha = r), or the method's own tuner where there is no LoRA form but PEFT has one (GLORA).
/// Heads and trained biases included. Throws Error{kUsage} with the reason when there is neither.
void save_peft_adapter(const Adapter& adapter, const std::filesystem::path& directory);
/// Why save_peft_adapter would refuse the method, or "".
std::string peft_form_refusal(const Adapter& adapter);

/// Reads either form (PEFT LoRA and GLORA made elsewhere included) and attaches it to `target`.
/// Throws Error{kModel} listing together missing, unexpected and mis-shaped tensors, or when the adapter was
/// made for another base (model_type, shapes, fingerprint).
std::unique_ptr<Adapter> load_adapter(const std::filesystem::path& directory, AdapterTarget target);

/// Whether `directory` holds an adapter, and in which form.
enum class AdapterForm { kNone, kNative, kPeft };
AdapterForm adapter_form(const std::filesystem::path& directory);

}  // namespace msplora
