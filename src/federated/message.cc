#include "msplora/federated/message.h"

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/io/safetensors_bytes.h"

namespace msplora {
namespace {

int64_t bytes_of(const std::vector<NamedTensor>& tensors) {
  int64_t bytes = 0;
  for (const NamedTensor& entry : tensors) bytes += static_cast<int64_t>(entry.tensor.nbytes());
  return bytes;
}

}  // namespace

std::string serialize(const Message& message) {
  std::vector<NamedTensor> tensors = message.adapter;
  tensors.insert(tensors.end(), message.others.begin(), message.others.end());
  return to_safetensors(tensors, message.header);
}

void Traffic::add(const Traffic& more) {
  messages += more.messages;
  adapter += more.adapter;
  others += more.others;
  framing += more.framing;
}

Traffic measure(const Message& message) {
  Traffic traffic{1, bytes_of(message.adapter), bytes_of(message.others), 0};
  traffic.framing = static_cast<int64_t>(serialize(message).size()) - traffic.payload();
  return traffic;
}

}  // namespace msplora
