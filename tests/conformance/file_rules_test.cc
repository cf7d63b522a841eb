#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "conformance/harness.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/error.h"
#include "temporary_directory.h"

namespace msplora::testing {
namespace {

using ::testing::HasSubstr;

/// A trained adapter, so that what a method keeps beside its tensors is in the files too.
std::unique_ptr<TinyTraining> trained(const MethodRow& row) {
  TemporaryDirectory directory;
  auto training = std::make_unique<TinyTraining>(row.config);
  training->options.max_steps = row.steps;
  training->options.lr = 5e-2;
  training->run(directory.path());
  return training;
}

TEST_P(Conformance, NativeFilesGiveTheSameLogits) {
  TemporaryDirectory directory;
  const auto training = trained(row());
  const at::Tensor logits = training->model().logits();
  save_native_adapter(training->adapter(), directory.path());
  EXPECT_TRUE(at::equal(training->model().logits(), logits)) << "saving changed the adapter";
  TinyModel other("bert");
  EXPECT_GT(relative_difference(other.logits(), logits), 1e-4) << "training changed nothing";
  const auto loaded = load_adapter(directory.path(), other.target());
  EXPECT_TRUE(at::equal(other.logits(), logits));
  EXPECT_EQ(loaded->state().plan, training->adapter().state().plan);
  EXPECT_EQ(loaded->state().facts, training->adapter().state().facts);
  ASSERT_EQ(loaded->trainable().size(), training->adapter().trainable().size());
}

/// A run that starts from an adapter starts where that one ended: a step that moves nothing changes nothing.
TEST_P(Conformance, GoesOnFromAnAdapter) {
  TemporaryDirectory directory, peft, run;
  const auto training = trained(row());
  save_native_adapter(training->adapter(), directory.path());
  if (load_adapter_facts(directory.path()).has_run_state) {
    EXPECT_THAT(error_of([&] { settings_from(directory.path()); }),
                HasSubstr("method " + row().config.method + " cannot be trained on"));
    return;
  }
  std::vector<std::filesystem::path> forms = {directory.path()};
  if (peft_form_refusal(training->adapter()).empty()) {
    save_peft_adapter(training->adapter(), peft.path());
    forms.push_back(peft.path());
  }
  for (const std::filesystem::path& form : forms) {
    TinyTraining again(settings_from(form));
    const at::Tensor start = again.model().logits();
    EXPECT_LT(relative_difference(start, training->model().logits()), form == forms[0] ? 1e-30 : 2e-5);
    again.options.max_steps = row().config.stagewise ? row().steps : 1;  // a stage takes a step
    again.options.lr = 0.0;
    again.run(run.path() / form.filename());
    EXPECT_LT(relative_difference(again.model().logits(), start), 1e-6) << form;
  }

  AdapterConfig config = settings_from(directory.path());
  config.dropout = row().takes_dropout ? 0.25 : config.dropout;
  TinyModel other("bert");
  EXPECT_EQ(create_adapter(config, other.target(), 1)->config().dropout, config.dropout);
  config.rank += 1;
  config.target_modules = {"key"};
  TinyModel third("bert");
  const std::string contradictions = error_of([&] { create_adapter(config, third.target(), 1); });
  EXPECT_THAT(contradictions,
              HasSubstr("adapter.rank: " + std::to_string(config.rank) + ", but the adapter"));
  EXPECT_THAT(contradictions, HasSubstr("adapter.target_modules"));
}

TEST_P(Conformance, MergingAddsTheChangeAndReloadingUndoesIt) {
  TemporaryDirectory directory;
  const auto training = trained(row());
  TinyModel& model = training->model();
  const at::Tensor logits = model.logits();
  save_native_adapter(training->adapter(), directory.path());
  const Adapter& adapter = training->adapter();
  std::vector<at::Tensor> expected;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    const c10::NoGradGuard no_grad;
    expected.push_back(adapter.sites()[i].linear->weight->values().to(at::kDouble) +
                       adapter.change_of(i).weight);
  }
  const MergeReport report = merge_adapter(training->adapter(), at::kFloat);
  EXPECT_EQ(report.sites, static_cast<int64_t>(adapter.sites().size()));
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_LE(relative_difference(adapter.sites()[i].linear->weight->values(), expected[i]), kMergedInFloat);
  for (const Site& site : model.model().sites()) EXPECT_EQ(site.linear->update, nullptr) << site.path;
  TinyModel fresh("bert");
  const auto loaded = load_adapter(directory.path(), fresh.target());
  EXPECT_TRUE(at::equal(fresh.logits(), logits));
}

TEST_P(Conformance, PeftFilesGiveTheSameLogitsOrAReason) {
  TemporaryDirectory directory;
  const auto training = trained(row());
  const std::string refusal = peft_form_refusal(training->adapter());
  const auto save = [&] { save_peft_adapter(training->adapter(), directory.path()); };
  if (!row().no_peft_form.empty()) {
    EXPECT_THAT(refusal, HasSubstr(row().no_peft_form));
    EXPECT_THAT(error_of(save), HasSubstr(refusal));
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
    return;
  }
  ASSERT_EQ(refusal, "");
  save();
  TinyModel other("bert");
  const auto loaded = load_adapter(directory.path(), other.target());
  EXPECT_EQ(loaded->config().method, row().peft_method);
  EXPECT_LT(relative_difference(other.logits(), training->model().logits()), 2e-5);
}

/// Every bad setting alone, and together with another problem, since all are reported at once.
TEST_P(Conformance, RefusesBadOptions) {
  std::vector<BadSetting> settings = row().refused;
  settings.push_back({[](AdapterConfig& config) { config.dropout = 1.5; }, "adapter.dropout"});
  settings.push_back({[](AdapterConfig& config) { config.rank = 0; }, "adapter.rank"});
  TinyModel model("bert");
  const AdapterTarget target = model.target();
  for (size_t i = 0; i < settings.size(); ++i) {
    SCOPED_TRACE("bad setting " + std::to_string(i));
    AdapterConfig config = row().config;
    settings[i].change(config);
    const std::string alone = error_of([&] { create_adapter(config, target, 1); });
    EXPECT_THAT(alone, HasSubstr(settings[i].fragment));
    EXPECT_THAT(error_of([&] {
                  count_parameters(config, target.sites, TinyModel::kLayers, target.heads,
                                   target.head_modules, target.parameters);
                }),
                HasSubstr(settings[i].fragment));
    config.modules_to_save = {"no_such_module"};
    const std::string together = error_of([&] { create_adapter(config, target, 1); });
    EXPECT_THAT(together, HasSubstr(settings[i].fragment));
    EXPECT_THAT(together, HasSubstr("no_such_module"));
    for (const Site& site : model.model().sites()) EXPECT_EQ(site.linear->update, nullptr) << site.path;
  }
}

}  // namespace
}  // namespace msplora::testing
