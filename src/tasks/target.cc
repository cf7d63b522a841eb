#include "msplora/tasks/target.h"

#include "msplora/adapters/fingerprint.h"
#include "msplora/models/computation.h"
#include "msplora/tasks/task.h"

namespace msplora {

AdapterTarget target_of(Model& model, const std::string& base_name) {
  AdapterTarget target;
  target.model_type = model.config().model_type;
  target.base_name = base_name;
  for (const TaskKind& kind : task_kinds()) {
    if (kind.head == model.task()) target.task_type = kind.peft_type;
  }
  target.num_layers = model.architecture().num_layers();
  target.heads = {model.architecture().heads(), model.architecture().kv_heads()};
  target.sites = model.sites();
  target.parameters = model.parameters();
  target.head_modules = model.head_modules();
  target.ties = tied_names(model.architecture());
  target.untie = [&model] { model.untie(); };
  target.lifetime = model.lifetime();
  target.base_computation = computation_of(model.architecture());
  target.base_fingerprint = fingerprint(target.parameters, target.head_modules);
  return target;
}

}  // namespace msplora
