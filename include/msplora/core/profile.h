#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace msplora {

/// The time spent under one name since start_profile().
struct ProfileEntry {
  std::string name;
  int64_t calls = 0;
  double seconds = 0.0;       // scopes inside included
  double self_seconds = 0.0;  // without them: these add up to the time under all scopes
};

/// Forgets what was measured and begins to measure.
void start_profile();
/// Stops and returns the entries, largest self time first. Scopes that are still open are left out.
std::vector<ProfileEntry> stop_profile();

namespace detail {
inline std::atomic<bool> profile_is_on{false};
}

/// Measures the lifetime of the object under `name`, which must be a literal. Scopes nest on each thread by
/// itself. Costs one load while no profile is taken, about 0.1 microseconds while one is.
class ProfileScope {
 public:
  explicit ProfileScope(const char* name) {
    if (detail::profile_is_on.load(std::memory_order_relaxed)) begin(name);
  }
  ~ProfileScope() {
    if (name_ != nullptr) end();
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  void begin(const char* name);
  void end();

  const char* name_ = nullptr;  // null: not measured
  ProfileScope* outer_ = nullptr;
  int64_t began_ = 0;   // nanoseconds
  int64_t inside_ = 0;  // of scopes within
};

}  // namespace msplora
