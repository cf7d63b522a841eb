// Precompiled: parsing the tensor headers costs seconds per source file. Kept small, because whatever a
// precompiled header contains is also paid for in every source file: the tensor class alone, no operators.
// Sources include the operators they call (ATen/ops/NAME.h).
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include "pch_base.h"
