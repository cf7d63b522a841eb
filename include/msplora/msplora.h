#pragma once

/// Everything that programs usually need.
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/model.h"
#include "msplora/models/model_config.h"
#include "msplora/nn/context.h"
#include "msplora/tokenizers/tokenizer.h"
