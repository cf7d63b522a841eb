#pragma once

#include <gtest/gtest.h>

#include <string>

#include "msplora/core/error.h"

namespace msplora {

/// What the call throws, or "" (a failure) when it throws no Error of that kind.
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
