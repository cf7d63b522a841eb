#include "msplora/gguf/naming.h"

namespace msplora {

std::vector<int64_t> interleaved_rows(int64_t rows, int64_t heads) {
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(rows));
  const int64_t half = rows / heads / 2;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t e = 0; e < 2; ++e)
      for (int64_t i = 0; i < half; ++i) order.push_back(2 * (head * half + i) + e);
  }
  return order;
}

std::vector<int64_t> rows_in_file(int64_t rows, int64_t heads) {
  const std::vector<int64_t> places = interleaved_rows(rows, heads);
  std::vector<int64_t> order(places.size());
  for (size_t i = 0; i < places.size(); ++i) order[static_cast<size_t>(places[i])] = static_cast<int64_t>(i);
  return order;
}

}  // namespace msplora
