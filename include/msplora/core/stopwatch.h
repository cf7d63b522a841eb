#pragma once

namespace msplora {

/// Seconds since it was made, or since `restart`: of the clock on the wall (monotonic), and of the processor,
/// summed over all threads of this process. The second hardly depends on what else the machine is doing.
class Stopwatch {
 public:
  Stopwatch() { restart(); }
  void restart();
  double seconds() const;
  double cpu_seconds() const;

 private:
  double began_ = 0.0, cpu_began_ = 0.0;
};

}  // namespace msplora
