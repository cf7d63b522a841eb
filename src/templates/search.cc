#include "templates/search.h"

#include <cstring>

#include "templates/budget.h"

namespace msplora::templates {

Places::Places(std::string_view text, std::string_view part, bool from_right)
    : text_(text), part_(part), from_right_(from_right) {
  Budget::charge(text.size() + part.size());
  if (!from_right) return;
  Budget::charge(text.size() + part.size());
  reversed_text_.assign(text.rbegin(), text.rend());
  reversed_part_.assign(part.rbegin(), part.rend());
  text_ = reversed_text_;
  part_ = reversed_part_;
}

// glibc's memmem is linear in the worst case, unlike std::string::find.
size_t Places::next() {
  if (at_ > text_.size()) return kNone;
  const void* found = memmem(text_.data() + at_, text_.size() - at_, part_.data(), part_.size());
  if (found == nullptr) {
    at_ = text_.size() + 1;
    return kNone;
  }
  const auto begin = static_cast<size_t>(static_cast<const char*>(found) - text_.data());
  at_ = begin + part_.size();
  return from_right_ ? text_.size() - at_ : begin;
}

}  // namespace msplora::templates
