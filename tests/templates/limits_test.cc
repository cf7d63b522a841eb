// That rendering ends with an error and not with the process, in time and memory that are paid for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <string>
#include <vector>

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
std::string looped(const std::string& body) {
  return "{% set ns = namespace(x=[], y=[]) %}{% for i in range(100000) %}" + body +
         "{% endfor %}{% set ns.x = 1 %}ok";
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
  const std::string numbers = "{% set x = [0] * 1000000 %}", text = "{% set a = 'a' * 4000000 %}";
  for (const std::string& one : {
           numbers + looped("{% set y = x|reverse %}"),
           numbers + looped("{% set y = x|list %}"),
           numbers + looped("{% set y = x|sort %}"),
           numbers + looped("{% set y = x[::-1] %}"),
           numbers + looped("{% set y = x.count(1) %}"),
           numbers + looped("{% set y = x == x + [1] or 1 in x %}"),
           numbers + looped("{% set y = x|sum %}"),
           numbers + looped("{% for k in x if k %}{% endfor %}"),
           numbers + looped("{% set ns.y = [x|reverse, 1] %}"),
           numbers + "{{ x|tojson(separators=['x' * 10000000, ':']) }}",
           text + looped("{% set y = a|length %}"),
           text + looped("{% set y = a[-1] %}"),
           text + looped("{% set y = a[1:] %}"),
           text + looped("{% set y = 'x' in a %}"),
           text + looped("{% set y = a ~ 'x' %}"),
           text + looped("{% set y = a is lower %}"),
           text + looped("{% set y = 'x'|join(a) %}"),
           text + looped("{% set y = 'x'|trim(a) %}"),
           text + looped("{% set y = 'x'.split(a) %}"),
           text + looped("{% set y = 'x'.strip(a) %}"),
           text + looped("{% set y = a.startswith(a) %}"),
           text + looped("{% set y = '%s' % a %}"),
           text + looped("{% set y = a|int %}"),
           looped("{% set y = " + many("n", 100000) + " %}"),
           looped(looped("{% set y = [] %}")),
           looped(looped("{% set y = 'a'.upper() %}")),
           looped(looped("{% macro m() %}{% endmacro %}")),
       })
    EXPECT_THAT(rendered_message(one), HasSubstr(kTooMuch)) << one.substr(0, 150);
}

// Names are looked for one after the other.
TEST(TemplateLimits, ManyNamesArePaid) {
  std::string names, given;
  for (int i = 0; i < 20000; ++i) {
    names += "{% set a" + std::to_string(i) + " = 1 %}";
    given += (i > 0 ? ", a" : "a") + std::to_string(i) + "=1";
  }
  EXPECT_THAT(rendered_message(names + looped("{% set y = a19999 %}")), HasSubstr(kTooMuch));
  EXPECT_THAT(rendered_message("{% set d = dict(" + given.substr(0, given.rfind(',', 30000)) + ") %}" +
                               looped("{% set y = d.b %}{% set y = d.c %}{% set y = d.e %}")),
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
  EXPECT_EQ(rendered_message("{% set x = [0] * 4000000 %}" +
                             looped("{% set y = x|first %}{% set z = x|last %}{% set n = x|length %}")),
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
