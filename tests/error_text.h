#pragma once

#include <gtest/gtest.h>

#include <string>

#include "msplora/core/error.h"

namespace msplora {

/// The text of the Error that the call throws, or "no error".
template <typename Call>
std::string error_text(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// The same of an Error that must be thrown and be of that kind; "" after the failure where none is.
template <typename Call>
std::string error_text(ErrorCode code, Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

}  // namespace msplora
