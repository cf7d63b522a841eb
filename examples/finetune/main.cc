// Trains an adapter on labelled text, evaluates it, saves it and uses it, through the library alone.
//   finetune MODEL_DIR TRAIN_FILE OUTPUT_DIR TEXT...

#include <cstdio>
#include <exception>
#include <string>

#include "msplora/runs/run.h"
#include "msplora/runs/tuned_model.h"

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::fprintf(stderr, "usage: finetune MODEL_DIR TRAIN_FILE OUTPUT_DIR TEXT...\n");
    return 2;
  }
  msplora::Recipe recipe;  // as in YAML; load_recipe(file) reads one
  recipe.model.path = argv[1];
  recipe.data.train = argv[2];
  recipe.data.text = "sentence";
  recipe.data.validation_fraction = 0.1;
  recipe.train.epochs = 4;
  recipe.train.lr = 1e-2;
  recipe.output.dir = argv[3];

  msplora::Run run = msplora::open_run(recipe);  // all that is wrong in one error; nothing is written yet
  const msplora::RunReport report = msplora::train(run);
  std::printf("%s %.4f with %lld trained numbers, saved in %s\n", report.best_metric.c_str(),
              report.score(report.best_metric)->value, static_cast<long long>(report.trainable.total),
              report.adapters.at("peft").c_str());

  msplora::TunedModel tuned = msplora::open_tuned(recipe.model.path, report.adapters.at("peft"));
  for (int i = 4; i < argc; ++i) {
    const msplora::Prediction prediction = msplora::predict(tuned, {{"text", argv[i]}});
    std::printf("%s\t%.6f\t%s\n", prediction.text().c_str(),
                prediction.json["probabilities"][prediction.text()].get<double>(), argv[i]);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "finetune: error: %s\n", error.what());
  return 1;
}
