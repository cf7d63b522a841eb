#pragma once

#include "msplora/tasks/task.h"

/// Every task, in the order of lists and menus: NAME is task.type, and NAME_task() its row, defined in
/// src/tasks/NAME.cc.
#define MSPLORA_TASKS(X) \
  X(classification)      \
  X(regression)          \
  X(masked_lm)           \
  X(causal_lm)           \
  X(sft)

namespace msplora {

#define MSPLORA_DECLARE_TASK(name) TaskKind name##_task();
MSPLORA_TASKS(MSPLORA_DECLARE_TASK)
#undef MSPLORA_DECLARE_TASK

}  // namespace msplora
