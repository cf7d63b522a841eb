// Has a language model go on with texts, with an adapter or without.
//   generate MODEL_DIR ADAPTER_DIR|- TEXT...

#include <cstdio>
#include <exception>

#include "msplora/runs/language_model.h"

int main(int argc, char** argv) try {
  msplora::LanguageModelOptions options;
  if (argc > 2 && argv[2][0] != '-') options.adapters["mine"] = argv[2];
  auto model = msplora::LanguageModel::open(argc > 1 ? argv[1] : "", options);
  for (int i = 3; i < argc; ++i) {
    msplora::GenerationRequest request;
    request.prompt = argv[i];
    request.options = model.defaults();
    request.options.max_new_tokens = 40;
    request.on_text = [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); };
    model.generate(request);
    std::puts("");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "generate: error: %s\n", error.what());
  return 1;
}
