#pragma once

#include <cstdint>
#include <string>

#include "msplora/federated/message.h"

namespace msplora {

/// What a client says of its work beside the message.
struct ClientReport {
  std::string problem;  // why there is no usable answer, or ""
  double loss = 0.0;    // the last one
  int64_t steps = 0, tokens = 0;
  double seconds = 0.0;
};

struct Answer {
  Message message;  // empty where there is none
  ClientReport report;
};

/// The way between the server and its clients. Federation brings one that calls clients of its own process,
/// and knows of them nothing but this.
class Channel {
 public:
  virtual ~Channel() = default;
  /// Hands the message to the client and waits for its answer. Throws Error{kIo} when none comes, whereupon
  /// the round goes on without the client, and Error{kInterrupted} when interrupt_requested().
  virtual Answer exchange(int64_t client, const Message& message) = 0;
};

}  // namespace msplora
