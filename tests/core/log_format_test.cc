#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "msplora/core/dtype_names.h"
#include "msplora/core/log.h"

namespace msplora {
namespace {

TEST(LogFormat, JsonLinesHoldTimeLevelAndMessage) {
  set_log_format(LogFormat::kJson);
  const std::string line = log_line(LogLevel::kWarning, "a \"b\"\n");
  set_log_format(LogFormat::kText);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("level"), "warning");
  EXPECT_EQ(json.at("message"), "a \"b\"\n");
  EXPECT_EQ(json.at("time").get<std::string>().size(), std::string("2026-11-26T22:08:26.123Z").size());
  EXPECT_EQ(log_line(LogLevel::kWarning, "x"), "warning: x");
  EXPECT_EQ(log_line(LogLevel::kInfo, "x"), "x");
}

TEST(DtypeNames, UsualNamesAreOne) {
  for (const char* name : {"bf16", "BF16", "bfloat16", "torch.bfloat16"})
    EXPECT_EQ(usual_dtype_name(name), "bfloat16");
  for (const char* name : {"fp32", "float", "f32", "Float32", "single"})
    EXPECT_EQ(usual_dtype_name(name), "float32");
  for (const char* name : {"half", "fp16", "f16"}) EXPECT_EQ(usual_dtype_name(name), "float16");
  EXPECT_EQ(usual_dtype_name("int8"), "int8");
}

}  // namespace
}  // namespace msplora
