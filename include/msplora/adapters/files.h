#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/gguf/types.h"

namespace msplora {

/// Our native form: adapter.json (method, options, plan, base) and adapter.safetensors with every trainable
/// tensor once, under its own name; shared tensors are re-tied on load. All three throw Error{kUsage} for an
/// adapter that is none of the registry's (Adapter::is_of_registry).
void save_native_adapter(const Adapter& adapter, const std::filesystem::path& directory);

/// PEFT: adapter_config.json and adapter_model.safetensors, exact: LoRA (levels concatenated, scalings folded
/// into B, lora_alpha = r), or the method's own tuner where there is no LoRA form but PEFT has one (GLORA).
/// Heads and trained biases included. Throws Error{kUsage} with the reason when there is neither.
void save_peft_adapter(const Adapter& adapter, const std::filesystem::path& directory);
/// Why save_peft_adapter would refuse the method, or "".
std::string peft_form_refusal(const Adapter& adapter);

/// A LoRA adapter of llama.cpp: pairs of factors under the names that GGUF has for the base's tensors,
/// scalings folded into B; in `type` where its blocks divide the rows, else F16. Throws Error{kUsage} naming
/// what such a file cannot hold (trained biases, heads and modules, DoRA's magnitudes, methods without a
/// low-rank form).
void save_gguf_adapter(const Adapter& adapter, GgufType type, const std::filesystem::path& path);

/// Reads any form (PEFT LoRA and GLORA made elsewhere included, and LoRA of a GGUF file, whose path is then
/// the file's) and attaches it to `target`.
/// Throws Error{kModel} listing together missing, unexpected and mis-shaped tensors, or when the adapter was
/// made for another base (model_type, shapes, fingerprint).
std::unique_ptr<Adapter> load_adapter(const std::filesystem::path& directory, AdapterTarget target);

/// The same for a target whose sites are shapes alone (Adapter::is_shape_only).
/// Throws Error{kUsage} where a method's adapters cannot be read without the base's weights.
std::unique_ptr<Adapter> load_adapter_without_base(const std::filesystem::path& directory,
                                                   AdapterTarget target);
/// A target of shapes alone, for adapters that are looked at without a base: the sites that native files
/// record; in PEFT's form (and older native ones) those that have factors of their own names, in the order of
/// layers, which are the first number in their paths. Throws Error{kUsage} where neither is there.
AdapterTarget target_of_files(const std::filesystem::path& directory);

/// An adapter without values, which are put into its trainable tensors and those of its state afterwards.
/// Throws as create_adapter.
std::unique_ptr<Adapter> empty_adapter(const AdapterConfig& config, AdapterTarget target);

/// Whether `directory` holds an adapter or is one (a GGUF file), and in which form.
enum class AdapterForm { kNone, kNative, kPeft, kGguf };
AdapterForm adapter_form(const std::filesystem::path& directory);

/// What the files of an adapter say before a model is there.
struct AdapterFacts {
  AdapterForm form = AdapterForm::kNone;
  AdapterConfig config;        // as in the file: module names of PEFT are not yet resolved against a model
  std::string task_type;       // as in AdapterTarget; "" where the file does not say
  std::string base_name;       // the base that it was trained on; "" where the file does not say
  int64_t head_outputs = 0;    // of the classification head it brings; 0: none, the base's is used
  bool has_run_state = false;  // holds what belongs to the run that made it: merges, rounds, a search
  std::map<std::string, std::vector<int64_t>> shapes;  // of its tensors, by their names in memory
};
/// Throws Error{kIo} when there is no adapter, Error{kFormat} or {kModel} as load_adapter.
AdapterFacts load_adapter_facts(const std::filesystem::path& directory);

/// The configuration of a run that goes on from an adapter: its settings, with init_from set to `directory`.
/// Throws as load_adapter_facts, and Error{kConfig} for methods whose adapters cannot be trained on, since
/// they hold the state of their run.
AdapterConfig settings_from(const std::filesystem::path& directory);

/// Adds every option of `wanted` that differs from the settings of the adapter in wanted.init_from, `own`.
/// What acts in training alone (dropout, dropouts, lora_plus_ratio) may differ, and so may the order of
/// names.
void check_settings(const AdapterConfig& wanted, const AdapterConfig& own, ErrorList& errors);

}  // namespace msplora
