#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/tasks/task.h"

namespace msplora {

/// What tasks share whose rows are a text or a pair of texts with one label at most.
class TextTask : public Task {
 public:
  TextTask(TaskSettings settings, LabelKind labels) : Task(std::move(settings)), labels_(labels) {}

  EncodedDataset encode(const Dataset& rows, int threads) const override {
    if (!settings().tokenizer)
      throw Error(ErrorCode::kUsage, "task",
                  "texts cannot be encoded: the task was made without a tokenizer");
    return encode_dataset(rows, labels_, settings().labels ? &*settings().labels : nullptr,
                          *settings().tokenizer, settings().max_length, threads);
  }

 protected:
  /// The metrics asked for, else `usual`; the loss comes last where it is not named.
  std::vector<std::string> metrics_or(std::vector<std::string> usual) const {
    std::vector<std::string> names = settings().metrics.empty() ? std::move(usual) : settings().metrics;
    if (std::find(names.begin(), names.end(), "loss") == names.end()) names.emplace_back("loss");
    return names;
  }

 private:
  LabelKind labels_;
};

}  // namespace msplora
