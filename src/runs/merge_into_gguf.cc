#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/paths.h"
#include "msplora/gguf/quantise.h"
#include "msplora/gguf/writer.h"
#include "msplora/models/gguf.h"
#include "msplora/models/gguf_export.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/tuned_model.h"
#include "msplora/tokenizers/gguf_export.h"
#include "runs/merge_samples.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

/// What most bytes of the base are stored in, where that is written; else F16.
GgufType type_of_base(const fs::path& base) {
  if (!is_gguf_path(base)) {
    const at::ScalarType dtype = stored_dtype(base);
    return dtype == at::kBFloat16 ? GgufType::kBF16 : dtype == at::kHalf ? GgufType::kF16 : GgufType::kF32;
  }
  const auto file = GgufFile::open(base);
  std::map<GgufType, uint64_t> bytes;
  for (const GgufTensor& tensor : file->tensors()) bytes[tensor.type] += tensor.bytes;
  const auto most = std::max_element(bytes.begin(), bytes.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most != bytes.end() && is_written(most->first) ? most->first : GgufType::kF16;
}

/// Texts whose ids show how a tokenizer cuts, spells and marks.
constexpr std::string_view kProbes[] = {
    "The quick brown fox, 12345 of them -- jumped; didn't it?",
    "  two spaces,   three,\ttabs\t\tand\n\nlines \r\n ends \n",
    "Grüße aus Köln, naïve café, Ångström ﬁ ½ ²",
    "中文和日本語のテキスト 한국어 ไทย العربية हिन्दी",
    "emoji \xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 \xE2\x82\xAC"
    "99.50 x=3.14e-10 #tag @user_name",
    "def f(x):\n    return {'a': [1, 22, 333, 4444]}  # I'LL'S WE'VE",
    "e\xCC\x81 decomposed, \xE2\x96\x81 sign, CamelCase HTTPServer2 ٣٤٥"};

void check_written_tokenizer(const Tokenizer& own, const fs::path& written, const std::string& source) {
  const auto read = Tokenizer::load(written);
  for (const std::string_view probe : kProbes) {
    if (own.encode({probe, {}}).ids == read->encode({probe, {}}).ids) continue;
    throw Error(
        ErrorCode::kUsage, source,
        fmt::format("GGUF has no form for this tokenizer: its file gives other ids for \"{}\"", probe),
        "write a Hugging Face directory instead (--format hf)");
  }
}

void check_written_model(const Model& model, const fs::path& written) {
  const ModelConfig config = gguf_model_config(*GgufFile::open(written));
  const std::string difference =
      gguf_difference(model.architecture(), describe(config, ModelTask::kCausalLm));
  if (difference.empty()) return;
  throw Error(ErrorCode::kUsage, "GGUF", "a file cannot say " + difference,
              "write a Hugging Face directory instead (--format hf)");
}

/// Gone at the end, unless it was renamed.
struct Part {
  fs::path path;
  ~Part() {
    std::error_code ignored;
    fs::remove(path, ignored);
  }
};

}  // namespace

std::vector<std::string> gguf_type_names() {
  std::vector<std::string> names;
  for (const GgufType type : written_types()) {
    std::string& name = names.emplace_back(gguf_type_info(type).name);
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return names;
}

GgufType parse_gguf_type(const std::string& name) {
  const std::vector<std::string> names = gguf_type_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return written_types()[static_cast<size_t>(found - names.begin())];
  throw Error(ErrorCode::kUsage, "--type",
              fmt::format("expected one of {}, found `{}`", fmt::join(names, ", "), name),
              did_you_mean(name, names));
}

MergedFiles merge_into_gguf(TunedModel tuned, const fs::path& base, const fs::path& output,
                            const std::string& type) {
  MergedFiles merged;
  const GgufType wanted = type == "auto" ? type_of_base(base) : parse_gguf_type(type);
  merged.type = gguf_type_info(wanted).name;
  const at::Device device = tuned.model->device();
  const std::vector<PackedInput> samples = merge_samples(tuned.model->config(), gguf_context(*tuned.model));
  const std::vector<at::Tensor> adapted = sample_logits(*tuned.model, samples);
  // The one rounding is that of the file.
  if (tuned.adapter) merged.sites = merge_adapter(*tuned.adapter, at::kFloat).sites;
  GgufWriter file;
  export_model(*tuned.model, wanted, absolute_path(base).lexically_normal().stem().string(), file);
  export_tokenizer(base, tuned.model->architecture().vocab_size(), file);
  if (tuned.chat_template) file.set("tokenizer.chat_template", tuned.chat_template->source());
  const Part part{output.string() + ".part"};
  file.write(part.path);
  check_written_model(*tuned.model, part.path);
  check_written_tokenizer(*tuned.tokenizer, part.path, base.string());
  tuned.adapter.reset();
  tuned.model.reset();
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  options.device = device;
  merged.difference = compare_logits(adapted, sample_logits(*load_model(part.path, options), samples));
  rename_path(part.path, output);
  return merged;
}

}  // namespace msplora
