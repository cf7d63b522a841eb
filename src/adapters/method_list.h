#pragma once

/// The methods, in the order in which they are listed. A word NAME here stands for a function
/// `Method NAME_method()` in src/adapters/NAME.cc.
#define MSPLORA_METHODS(X) \
  X(msplora)               \
  X(lora)                  \
  X(aslora)                \
  X(prilora)               \
  X(lorta)                 \
  X(ttlora)                \
  X(glora)                 \
  X(flatlora)              \
  X(lorapro)               \
  X(xgblora)               \
  X(gelora)                \
  X(vera)                  \
  X(none)                  \
  X(full)                  \
  X(bitfit)
