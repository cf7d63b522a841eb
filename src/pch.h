// Precompiled: parsing the libtorch headers costs seconds per source file.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "pch_base.h"
