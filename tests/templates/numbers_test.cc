// Numbers at their ends, beside what Python 3.11 and jinja2 3.1 print.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <clocale>
#include <string>
#include <utility>
#include <vector>

#include "rendered_message.h"

namespace msplora {
namespace {

using ::testing::HasSubstr;

std::string shown(const std::string& expression) {
  return rendered_message("{{ " + expression + " }}");
}

TEST(TemplateNumbers, TooLargeOnesAreRefused) {
  for (const char* one :
       {"9223372036854775807 + 1", "-9223372036854775807 - 2", "9223372036854775807 * 2", "3 ** 50",
        "-(-9223372036854775807 - 1)", "(-9223372036854775807 - 1) // -1", "9223372036854775808",
        "'99999999999999999999'|int", "'-9223372036854775809'|int", "'ffffffffffffffffff'|int(base=16)",
        "1e300|int", "'1e300'|int", "9223372036854775808.0|int", "'%d' % 1e300",
        "'%x' % 9223372036854775807 ~ 2 ** 63", "(-9223372036854775807 - 1)|abs"})
    EXPECT_THAT(shown(one), HasSubstr("a whole number is too large")) << one;
  EXPECT_THAT(shown("'%d' % ('inf'|float)"), HasSubstr("cannot convert float infinity to integer"));
  EXPECT_THAT(shown("('nan'|float)|string ~ '%d' % ('nan'|float)"), HasSubstr("cannot convert float NaN"));
  EXPECT_THAT(shown("2.0 ** 5000"), HasSubstr("is too large"));
  EXPECT_THAT(shown("(-8.0) ** 0.5"), HasSubstr("is no real number"));
  EXPECT_THAT(shown("0 ** -1"), HasSubstr("negative power"));
  EXPECT_THAT(shown("'%300d' % 1"), HasSubstr("a format is wider than 200"));
  EXPECT_THAT(shown("'%.300f' % 1"), HasSubstr("a format is wider than 200"));
  EXPECT_THAT(shown("'%x' % 1.5"), HasSubstr("needs a whole number"));
  EXPECT_THAT(shown("'a' % 1"), HasSubstr("not all arguments"));
}

TEST(TemplateNumbers, LargestOnesArePythons) {
  for (const auto& [expression, wanted] : std::vector<std::pair<std::string, std::string>>{
           {"9223372036854775807", "9223372036854775807"},
           {"-9223372036854775807 - 1", "-9223372036854775808"},
           {"'-9223372036854775808'|int", "-9223372036854775808"},
           {"'%d' % (-9223372036854775807 - 1)", "-9223372036854775808"},
           {"range(9223372036854775806, 9223372036854775807, 9223372036854775807)|list",
            "[9223372036854775806]"},
           {"range(-9223372036854775807, 9223372036854775807, 9223372036854775807)|list|length", "2"},
           {"'abc'[::9223372036854775807]", "a"},
           {"'abc'[::-9223372036854775807]", "c"},
           {"'abc'[-9223372036854775807:9223372036854775807]", "abc"},
           {"'abc'[-9223372036854775807 - 1::-1]", ""},
           {"[1, 2][-9223372036854775807]", ""},
           {"'x' * -9223372036854775807", ""},
           {"'' * 9223372036854775807", ""},
           {"'a b'.split(' ', -9223372036854775807 - 1)", "['a', 'b']"},
           {"'aa'.replace('a', 'b', -9223372036854775807 - 1)", "bb"},
           {"'x\ny'|indent(-9223372036854775807)", "x\ny"},
           {"'1e400'|float", "inf"},
           {"'-1e-400'|float", "-0.0"},
           {"1e400", "inf"},
           {"'0x10'|float", "0.0"},
           {"'1_000.5'|float", "1000.5"},
           {"' +1_0 '|int", "10"},
           {"'0x1F'|int(base=16)", "31"},
           {"'1__0'|int", "0"},
           {"'42.9'|int", "42"},
           {"'inf'|int", "0"},
           {"1.5|int(7)", "1"}})
    EXPECT_EQ(shown(expression), "rendered: " + wanted) << expression;
}

TEST(TemplateNumbers, FormatsArePythons) {
  for (const auto& [expression, wanted] :
       std::vector<std::pair<std::string, std::string>>{{"'%08.5d' % 42", "00000042"},
                                                        {"'%#x' % -31", "-0x1f"},
                                                        {"'%#o' % 8", "0o10"},
                                                        {"'%+d' % 5", "+5"},
                                                        {"'% d' % 5", " 5"},
                                                        {"'%05d' % -3", "-0003"},
                                                        {"'%-05d|' % 3", "3    |"},
                                                        {"'%x' % -1", "-1"},
                                                        {"'%05s|' % 'a'", "    a|"},
                                                        {"'%05f' % ('inf'|float)", "00inf"},
                                                        {"'%#g' % 1.5", "1.50000"},
                                                        {"'%g' % 1e20", "1e+20"},
                                                        {"'%g' % 0.0001", "0.0001"},
                                                        {"'%g' % 100000", "100000"},
                                                        {"'%g' % 1000000", "1e+06"},
                                                        {"'%#.0f' % 2.5", "2."},
                                                        {"'%.3d' % -7", "-007"},
                                                        {"'%+x' % 31", "+1f"},
                                                        {"'%E' % 1e300", "1.000000E+300"},
                                                        {"'%G' % 1e-10", "1E-10"},
                                                        {"'%.0e' % 1.5", "2e+00"},
                                                        {"'%F' % ('inf'|float)", "INF"},
                                                        {"'%5.1f|' % 2.25", "  2.2|"},
                                                        {"'%.2s' % 'äbc'", "äb"},
                                                        {"'%i' % 2.9", "2"},
                                                        {"'%#X' % 255", "0XFF"},
                                                        {"'%5.1f%%' % 99.95", "100.0%"}})
    EXPECT_EQ(shown(expression), "rendered: " + wanted) << expression;
  EXPECT_EQ(shown("('%.200f' % 1e308)|length"), "rendered: 510");
}

TEST(TemplateNumbers, WhatIsSplitAtSpacesIsPythons) {
  for (const auto& [expression, wanted] :
       std::vector<std::pair<std::string, std::string>>{{"' a b c '.split(none, 1)", "['a', 'b c ']"},
                                                        {"' a b c '.rsplit(none, 1)", "[' a b', 'c']"},
                                                        {"' a b '.split(none, 0)", "['a b ']"},
                                                        {"' a b '.rsplit(none, 0)", "[' a b']"},
                                                        {"'a '.split(none, 1)", "['a']"},
                                                        {"' '.split()", "[]"},
                                                        {"'aaa'.split('aa')", "['', 'a']"},
                                                        {"'aaa'.rsplit('aa')", "['a', '']"},
                                                        {"'a.b.c'.rsplit('.', 1)", "['a.b', 'c']"},
                                                        {"'abcabc'.rfind('bc')", "4"},
                                                        {"'abc'.rfind('')", "3"}})
    EXPECT_EQ(shown(expression), "rendered: " + wanted) << expression;
}

/// The locale of the process, until the end of the scope.
class Locale {
 public:
  explicit Locale(const char* name) : was_(std::setlocale(LC_ALL, nullptr)) {
    is_there_ = std::setlocale(LC_ALL, name) != nullptr;
  }
  ~Locale() { std::setlocale(LC_ALL, was_.c_str()); }
  bool is_there() const { return is_there_; }

 private:
  std::string was_;
  bool is_there_ = false;
};

TEST(TemplateNumbers, DoNotAskTheLocale) {
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8"}) {
    const Locale locale(name);
    if (!locale.is_there()) continue;
    EXPECT_EQ(shown("1.5 * 2"), "rendered: 3.0");
    EXPECT_EQ(shown("'1.5'|float"), "rendered: 1.5");
    EXPECT_EQ(shown("'%.2f' % 1.5"), "rendered: 1.50");
    EXPECT_EQ(shown("2.345|round(2)"), "rendered: 2.35");
    EXPECT_EQ(shown("[0.5]|tojson"), "rendered: [0.5]");
    return;
  }
  GTEST_SKIP() << "no locale with a decimal comma: de_DE.UTF-8, fr_FR.UTF-8";
}

}  // namespace
}  // namespace msplora
