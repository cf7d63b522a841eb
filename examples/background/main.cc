// Trains an adapter on a thread of a program that does other things meanwhile: lines of the log go where the
// program wants them, and the training ends when it is asked to. Called again, it goes on where it was.
//   background MODEL_DIR TRAIN_FILE OUTPUT_DIR SECONDS

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <future>
#include <stop_token>
#include <string>
#include <string_view>

#include "msplora/core/log.h"
#include "msplora/runs/run.h"

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::fprintf(stderr, "usage: background MODEL_DIR TRAIN_FILE OUTPUT_DIR SECONDS\n");
    return 2;
  }
  msplora::set_log_sink([](msplora::LogLevel level, std::string_view message) {
    const bool is_bad = level >= msplora::LogLevel::kWarning;
    std::printf("%s %s\n", is_bad ? "[!]" : "[ ]", std::string(message).c_str());
  });
  msplora::Recipe recipe;
  recipe.model.path = argv[1];
  recipe.data.train = argv[2];
  recipe.data.text = "sentence";
  recipe.output.dir = argv[3];

  std::stop_source stop;  // one for each training; others in this process go on
  std::future<msplora::RunReport> training = std::async(std::launch::async, [&] {
    msplora::Run run = msplora::open_run(recipe, {.resume = true, .stop = stop.get_token()});
    return msplora::train(run);
  });
  training.wait_for(std::chrono::seconds(std::atoi(argv[4])));
  stop.request_stop();  // changes nothing where it has ended
  const msplora::RunReport report = training.get();
  std::printf("done after %lld steps\n", static_cast<long long>(report.steps));
  return 0;
} catch (const std::exception& error) {
  const auto* const known = dynamic_cast<const msplora::Error*>(&error);
  if (known != nullptr && known->code() == msplora::ErrorCode::kInterrupted) {
    std::printf("stopped: %s\n", error.what());
    return 0;
  }
  std::fprintf(stderr, "background: error: %s\n", error.what());
  return 1;
}
