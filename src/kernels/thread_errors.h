#pragma once

#include <exception>

namespace msplora::kernels {

/// The first exception of the threads of a parallel region, which none may leave: scratch memory may run out.
class ThreadErrors {
 public:
  template <typename Body>
  void run(const Body& body) noexcept {
    try {
      body();
    } catch (...) {
      keep();
    }
  }
  /// After the region.
  void rethrow() const;

 private:
  void keep() noexcept;  // that which is being handled

  std::exception_ptr first_;
};

}  // namespace msplora::kernels
