// That rendering ends with an error and not with the process, in time and memory that are paid for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <string>
#include <vector>

#include "bounded_message.h"
#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "msplora/templates/messages.h"
#include "msplora/templates/template.h"
#include "rendered_message.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr const char* kTooMuch = "the template does too much";

std::string many(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

/// `body` a hundred thousand times, with a namespace `ns` beside.
std::string looped(const std::string& body, int times = 100000) {
  return "{% set ns = namespace(x=[], y=[]) %}{% for i in range(" + std::to_string(times) + ") %}" + body +
         "{% endfor %}{% set ns.x = 1 %}ok";
}
std::string few(const std::string& body) {
  return looped(body, 10000);
}

TEST(TemplateLimits, ValuesLieInEachOtherSoDeepOnly) {
  for (const char* deeper : {"[ns.x]", "(ns.x,)", "{'a': ns.x}", "dict(a=ns.x)", "[ns.x]|list", "[ns.x] + []",
                             "[ns.x] * 1", "{'a': ns.x}|items", "[ns.x]|map('list')|list", "[ns.x][:]"})
    EXPECT_THAT(rendered_message(looped("{% set ns.x = " + std::string(deeper) + " %}")),
                HasSubstr("values lie in each other more than 200 deep"))
        << deeper;
  Json deep = 1;
  for (int i = 0; i < 300; ++i) deep = Json::array({deep});
  EXPECT_THAT(rendered_message("{{ x }}", {{"x", deep}}), HasSubstr("more than 200 deep"));
  const std::string flat =
      "{% set ns = namespace(x=1) %}{% for i in range(190) %}{% set ns.x = [ns.x] %}{% endfor %}";
  EXPECT_EQ(rendered_message(flat + "{{ ns.x|string|length }} {{ ns.x == ns.x }} {{ ns.x|tojson|length }}"),
            "rendered: 381 True 381");
}

// What holds the one before it, a hundred thousand times, through objects.
TEST(TemplateLimits, ChainsOfObjectsGoAway) {
  for (const char* longer :
       {"{% set ns.x = namespace(x=ns.x) %}", "{% set ns.x = [ns.x].index %}",
        "{% for k in [ns.x] %}{% set ns.x = loop %}{% endfor %}",
        "{% for k in [1] %}{% set _ = loop.changed(ns.x) %}{% set ns.x = loop.changed %}{% endfor %}",
        "{% with p = ns.x %}{% macro m() %}{% endmacro %}{% set ns.x = m %}{% endwith %}"})
    EXPECT_EQ(rendered_message(looped(longer)), "rendered: ok") << longer;
}

size_t allocated_bytes() {
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

TEST(TemplateLimits, CirclesAreGivenBack) {
  const size_t before = allocated_bytes();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(rendered_message("{% for i in [1] %}{% set x = loop.changed(loop, 'ab' * 500000) %}{% endfor %}"
                               "{% set ns = namespace() %}{% set ns.me = [ns] %}ok"),
              "rendered: ok");
  }
  EXPECT_LT(allocated_bytes(), before + (size_t{5} << 20));
}

TEST(TemplateLimits, TheStackDoesNotEnd) {
  EXPECT_THAT(rendered_message("{{ 'a'|map(" + many("'map', ", 3000) + "'upper')|list }}"),
              HasSubstr("lie in each other more than 1000 deep"));
  EXPECT_THAT(
      rendered_message("{% macro a() %}" + many("{% if true %}", 150) + "{{ " + many("[", 40) + "a()" +
                       many("]", 40) + " }}" + many("{% endif %}", 150) + "{% endmacro %}{{ a() }}"),
      HasSubstr("lie in each other more than 1000 deep"));
  // As deep as macros may call each other, when they are no more than that.
  EXPECT_EQ(rendered_message("{% macro a(n) %}{% if n %}x{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(50) }}"),
            "rendered: " + many("x", 50));
}

TEST(TemplateLimits, WorkIsPaid) {
  const std::string numbers = "{% set x = [0] * 100000 %}", text = "{% set a = 'a' * 400000 %}";
  // What stands around the work takes less than there is, so that it is the work that is too much. (What a
  // template may do as it is rendered: template_test.cc.)
  constexpr size_t kSome = size_t{1} << 23;
  for (const std::string& around : {numbers, text, std::string()})
    EXPECT_EQ(bounded_message(around + few("{% set y = 1 %}{% set ns.y = 1 %}{% if i %}{% endif %}"), kSome),
              "rendered: ok");
  for (const std::string& one : {
           numbers + few("{% set y = x|reverse %}"),
           numbers + few("{% set y = x|list %}"),
           numbers + few("{% set y = x|sort %}"),
           numbers + few("{% set y = x[::-1] %}"),
           numbers + few("{% set y = x.count(1) %}"),
           numbers + few("{% set y = x == x + [1] or 1 in x %}"),
           numbers + few("{% set y = x|sum %}"),
           numbers + few("{% for k in x if k %}{% endfor %}"),
           numbers + few("{% set ns.y = [x|reverse, 1] %}"),
           numbers + "{{ x|tojson(separators=['x' * 1000000, ':']) }}",
           text + few("{% set y = a|length %}"),
           text + few("{% set y = a[-1] %}"),
           text + few("{% set y = a[1:] %}"),
           text + few("{% set y = 'x' in a %}"),
           text + few("{% set y = a ~ 'x' %}"),
           text + few("{% set y = a is lower %}"),
           text + few("{% set y = 'x'|join(a) %}"),
           text + few("{% set y = 'x'|trim(a) %}"),
           text + few("{% set y = 'x'.split(a) %}"),
           text + few("{% set y = 'x'.strip(a) %}"),
           text + few("{% set y = a.startswith(a) %}"),
           text + few("{% set y = '%s' % a %}"),
           text + few("{% set y = a|int %}"),
           few("{% set y = " + many("n", 100000) + " %}"),
           few(few("{% set y = [] %}")),
           few(few("{% set y = 'a'.upper() %}")),
           few(few("{% macro m() %}{% endmacro %}")),
       })
    EXPECT_THAT(bounded_message(one, kSome), HasSubstr(kTooMuch)) << one.substr(0, 150);
}

// Names are looked for one after the other.
TEST(TemplateLimits, ManyNamesArePaid) {
  constexpr size_t kSome = size_t{1} << 22;
  std::string names, given;
  for (int i = 0; i < 2000; ++i) {
    names += "{% set a" + std::to_string(i) + " = 1 %}";
    if (i < 500) given += (i > 0 ? ", a" : "a") + std::to_string(i) + "=1";
  }
  const std::string dict = "{% set d = dict(" + given + ") %}";
  for (const std::string& made : {names, dict})
    EXPECT_EQ(bounded_message(made + few("{% set y = 1 %}"), kSome), "rendered: ok");
  EXPECT_THAT(bounded_message(names + few("{% set y = a1999 %}"), kSome), HasSubstr(kTooMuch));
  EXPECT_THAT(bounded_message(dict + few("{% set y = d.b %}{% set y = d.c %}{% set y = d.e %}"), kSome),
              HasSubstr(kTooMuch));
}

// Searches that would take the product of both lengths.
TEST(TemplateLimits, SearchesAreLinear) {
  const std::string made = "{% set a = 'a' * 8000000 %}{% set b = 'a' * 4000000 ~ 'b' %}";
  for (const auto& [use, wanted] :
       std::vector<std::pair<std::string, std::string>>{{"b in a", "False"},
                                                        {"a.find(b)", "-1"},
                                                        {"a.rfind('b' ~ 'a' * 4000000)", "-1"},
                                                        {"a.count(b)", "0"},
                                                        {"a.replace(b, '')|length", "8000000"},
                                                        {"a.split(b)|length", "1"},
                                                        {"a.rsplit('b' ~ 'a' * 4000000)|length", "1"},
                                                        {"a.partition(b)|length", "3"},
                                                        {"a.rpartition(b)|length", "3"}})
    EXPECT_EQ(rendered_message(made + "{{ " + use + " }}"), "rendered: " + wanted) << use;
}

TEST(TemplateLimits, LongTextsAreReadOnce) {
  for (const auto& [use, wanted] : std::vector<std::pair<std::string, std::string>>{
           {"('word ' * 400000).split()|length", "400000"},
           {"('word ' * 400000).rsplit()|length", "400000"},
           {"('word ' * 400000).title()|length", "2000000"},
           {"('word\\n' * 400000).splitlines()|length", "400000"},
           {"(' ' * 1000000 ~ 'x').strip()", "x"},
           {"('a' * 1000000 ~ 'x').strip('a')", "x"},
           {"('ä' * 1000000)[999998:]", "ää"},
           {"('ä' * 1000000)[-1]", "ä"}})
    EXPECT_EQ(rendered_message("{{ " + use + " }}"), "rendered: " + wanted) << use;
  // Looking at an end of a list copies nothing.
  EXPECT_EQ(bounded_message("{% set x = [0] * 100000 %}" +
                                few("{% set y = x|first %}{% set z = x|last %}{% set n = x|length %}"),
                            size_t{1} << 23),
            "rendered: ok");
}

TEST(TemplateLimits, RenderingStopsWhenItIsAskedTo) {
  const Template endless(looped("{% for j in range(100000) %}{% endfor %}"));
  request_interrupt();
  try {
    endless.render(Json::object());
    ADD_FAILURE() << "rendered";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInterrupted) << error.what();
    // Whoever names the row does not make bad data of it.
    EXPECT_EQ(error_of_row(error, "rows.jsonl:1").code(), ErrorCode::kInterrupted);
  }
  clear_interrupt();
}

}  // namespace
}  // namespace msplora
