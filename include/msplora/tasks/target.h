#pragma once

#include <string>

#include "msplora/adapters/adapter.h"
#include "msplora/models/model.h"

namespace msplora {

/// The model as an adapter sees it; the fingerprint is taken here, before training. `base_name`: directory or
/// hub name, recorded in adapter files.
AdapterTarget target_of(Model& model, const std::string& base_name = {});

}  // namespace msplora
