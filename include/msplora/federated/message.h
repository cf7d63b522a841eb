#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "msplora/io/safetensors.h"

namespace msplora {

/// What server and client send each other: a safetensors file in memory. Tensors are in the type that they
/// are trained in, float32 unless the model computes in float64.
struct Message {
  std::vector<NamedTensor> adapter;           // factors, stacks, seeds
  std::vector<NamedTensor> others;            // heads and biases
  std::map<std::string, std::string> header;  // round, client, number of examples
};

/// The bytes to send.
std::string serialize(const Message& message);

/// Counted bytes. The payload is the numbers of tensors; the framing is all the rest of the serialised
/// messages (names, shapes, the header).
struct Traffic {
  int64_t messages = 0;
  int64_t adapter = 0;
  int64_t others = 0;
  int64_t framing = 0;

  int64_t payload() const { return adapter + others; }
  int64_t total() const { return payload() + framing; }
  void add(const Traffic& more);
};

/// Serialises the message and counts what came out.
Traffic measure(const Message& message);

}  // namespace msplora
