// Classifies texts with a base model and an adapter, through the library alone.
//   embed MODEL_DIR ADAPTER_DIR TEXT...

#include <cstdio>
#include <exception>

#include "msplora/runs/tuned_model.h"
#include "msplora/train/runtime.h"

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: embed MODEL_DIR ADAPTER_DIR TEXT...\n");
    return 2;
  }
  msplora::use_threads(0);
  msplora::TunedModel tuned = msplora::open_tuned(argv[1], argv[2]);
  for (int i = 3; i < argc; ++i) {
    const msplora::Prediction prediction = msplora::predict(tuned, {{"text", argv[i]}});
    std::printf("%s\t%.6f\t%s\n", prediction.text().c_str(),
                prediction.json["probabilities"][prediction.text()].get<double>(), argv[i]);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "embed: error: %s\n", error.what());
  return 1;
}
