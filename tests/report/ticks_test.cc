#include "report/ticks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "msplora/report/numbers.h"

namespace msplora::report {
namespace {

using testing::ElementsAre;

Ticks ticks_of(double low, double high, int about = 5, Axis axis = {}) {
  return choose_ticks(axis, {low, high, about});
}

Axis log_axis() {
  Axis axis;
  axis.scale = Scale::kLog;
  return axis;
}

TEST(ReportTicks, AreNumbersThatPeopleLike) {
  EXPECT_THAT(ticks_of(0, 1).labels, ElementsAre("0", "0.2", "0.4", "0.6", "0.8", "1.0"));
  EXPECT_THAT(ticks_of(66.3, 78.4).labels, ElementsAre("65", "70", "75", "80"));
  EXPECT_THAT(ticks_of(-0.31, 0.9, 3).labels, ElementsAre("−0.5", "0", "0.5", "1.0"));
  EXPECT_THAT(ticks_of(0, 3'824'064, 4).labels, ElementsAre("0", "1M", "2M", "3M", "4M"));
  EXPECT_THAT(ticks_of(0, 24'576, 3).labels, ElementsAre("0", "10k", "20k", "30k"));
  EXPECT_THAT(ticks_of(1000, 6000, 3).labels, ElementsAre("0", "2,000", "4,000", "6,000"));
  Axis whole;
  whole.integer = true;
  EXPECT_THAT(ticks_of(1, 3, 8, whole).labels, ElementsAre("1", "2", "3"));
}

TEST(ReportTicks, OfLogarithmsArePowersOfTen) {
  EXPECT_THAT(ticks_of(0.001, 10, 5, log_axis()).labels, ElementsAre("0.001", "0.01", "0.1", "1", "10"));
  EXPECT_THAT(ticks_of(1e-20, 1e10, 3, log_axis()).labels, ElementsAre("10⁻²⁰", "10⁻¹⁰", "1", "10¹⁰"));
  EXPECT_THAT(ticks_of(3, 11, 5, log_axis()).labels, ElementsAre("2", "5", "10", "20"));
  EXPECT_THAT(ticks_of(2000, 90'000, 5, log_axis()).labels.front(), "2×10³");
  EXPECT_THAT(choose_ticks(log_axis(), {2048, 4992, 5, false}).labels, ElementsAre("3,000", "4,000"));
  const Ticks ticks = ticks_of(1, 100, 5, log_axis());
  EXPECT_DOUBLE_EQ(ticks.place(10), 0.5);
  EXPECT_FALSE(ticks.can_show(0));
  EXPECT_FALSE(ticks.can_show(-1));
}

TEST(ReportTicks, AnyFiniteRangeGivesAnAxis) {
  const double largest = std::numeric_limits<double>::max(),
               least = std::numeric_limits<double>::denorm_min();
  const double values[] = {0.0,  1.0,  -1.0,     largest,   -largest, least,      1e-300, 1e300, 0.1,
                           1e15, 1e16, 1e16 + 2, 1 + 1e-15, -1e-9,    123456.789, 5e-5,   2048};
  for (const bool logarithmic : {false, true}) {
    for (const double a : values) {
      for (const double b : values) {
        Extent extent(logarithmic ? Scale::kLog : Scale::kLinear);
        extent.add(a);
        extent.add(b);
        extent.add(std::nan(""));
        extent.add(std::numeric_limits<double>::infinity());
        const Ticks ticks = ticks_of(extent.low(), extent.high(), 5, logarithmic ? log_axis() : Axis());
        SCOPED_TRACE(testing::Message() << a << " to " << b << (logarithmic ? ", log" : ""));
        ASSERT_LT(ticks.min, ticks.max);
        ASSERT_FALSE(ticks.at.empty());
        ASSERT_LE(ticks.at.size(), 40u);
        ASSERT_EQ(ticks.at.size(), ticks.labels.size());
        for (size_t i = 0; i < ticks.at.size(); ++i) {
          const double place = ticks.place(ticks.at[i]);
          EXPECT_TRUE(place >= -1e-6 && place <= 1 + 1e-6) << ticks.at[i] << " at " << place;
          EXPECT_TRUE(i == 0 || ticks.at[i - 1] < ticks.at[i]);
        }
      }
    }
  }
}

TEST(ReportNumbers, HaveDigitsThatCount) {
  EXPECT_EQ(number_text(0.010416), "0.01042");
  EXPECT_EQ(number_text(12.3456), "12.35");
  EXPECT_EQ(number_text(98765.4), "98,765");
  EXPECT_EQ(number_text(3824064), "3,824,064");
  EXPECT_EQ(number_text(-0.5, 3), "−0.500");
  EXPECT_EQ(number_text(0.00001234), "1.234×10⁻⁵");
  EXPECT_EQ(number_text(9.9999e-6), "10⁻⁵");
  EXPECT_EQ(number_text(0), "0");
  EXPECT_EQ(number_text(std::nan("")), "–");
  EXPECT_EQ(number_text(-std::numeric_limits<double>::infinity()), "−∞");
  EXPECT_EQ(number_text(1e300), "10³⁰⁰");
  EXPECT_EQ(percent_text(0.1234), "12.3 %");
  EXPECT_EQ(percent_text(-0.0001), "0.0 %");
  EXPECT_EQ(percent_text(-0.5, 0), "−50 %");
}

}  // namespace
}  // namespace msplora::report
