#pragma once

#include <string>
#include <utility>

#include "msplora/data/dataset.h"

namespace msplora {

inline TableSpec spec_of(FileFormat format, std::string text, std::string label) {
  TableSpec spec;
  spec.format = format;
  spec.text = std::move(text);
  spec.label = std::move(label);
  return spec;
}

}  // namespace msplora
