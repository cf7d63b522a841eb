#include "msplora/core/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <string_view>

namespace msplora {
namespace {

struct Totals {
  int64_t calls = 0, nanoseconds = 0, self_nanoseconds = 0;
};

struct Profile {
  std::mutex mutex;
  std::map<std::string_view, Totals> totals;
};

Profile& profile() {
  static Profile instance;
  return instance;
}

int64_t nanoseconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

thread_local ProfileScope* innermost = nullptr;

}  // namespace

void ProfileScope::begin(const char* name) {
  name_ = name;
  outer_ = innermost;
  innermost = this;
  began_ = nanoseconds_now();
}

void ProfileScope::end() {
  const int64_t elapsed = nanoseconds_now() - began_;
  innermost = outer_;
  if (outer_ != nullptr) outer_->inside_ += elapsed;
  // A scope that outlives its profile would bring time from before the next one into it.
  if (!detail::profile_is_on.load(std::memory_order_relaxed)) return;
  Profile& shared = profile();
  const std::lock_guard lock(shared.mutex);
  Totals& totals = shared.totals[name_];
  ++totals.calls;
  totals.nanoseconds += elapsed;
  totals.self_nanoseconds += elapsed - inside_;
}

void start_profile() {
  Profile& shared = profile();
  {
    const std::lock_guard lock(shared.mutex);
    shared.totals.clear();
  }
  detail::profile_is_on = true;
}

std::vector<ProfileEntry> stop_profile() {
  detail::profile_is_on = false;
  Profile& shared = profile();
  const std::lock_guard lock(shared.mutex);
  std::vector<ProfileEntry> entries;
  for (const auto& [name, totals] : shared.totals) {
    entries.push_back({std::string(name), totals.calls, static_cast<double>(totals.nanoseconds) * 1e-9,
                       static_cast<double>(totals.self_nanoseconds) * 1e-9});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.self_seconds > b.self_seconds; });
  return entries;
}

}  // namespace msplora
