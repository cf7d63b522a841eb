#pragma once

#include <string>
#include <string_view>

namespace msplora::detail {

/// What a file is that was meant to be a model, by its first bytes (64 will do), and what to do about it: a
/// Git LFS pointer, a pickle, a web page, another format of models. Empty when it is none of these.
std::string hint_for_foreign_file(std::string_view start);

}  // namespace msplora::detail
