// What templates of strangers cannot do, and the templates that are known by name.
#include "msplora/templates/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "bounded_message.h"
#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/templates/chat_template.h"
#include "msplora/templates/messages.h"
#include "rendered_message.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string rendered(const std::string& source, const Json& variables = Json::object()) {
  return Template(source).render(variables).text;
}

std::string repeated(const std::string& text, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

TEST(Template, EndsWhateverItIsToldToDo) {
  const std::vector<std::string> hostile = {
      "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}x{% endfor %}{% "
      "endfor %}{% endfor %}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ "
      "ns.s|length }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{{ 'x' * 1000000000 }}",
      "{{ ['x'] * 1000000000 }}",
      "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
      "{{ ('x' * 100000).replace('', 'y' * 100000) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '%.999999999f' % 1 }}",
      "{{ 'a\n'|indent(1000000000) }}",
      "{{ [[1]]|tojson(indent=1000000000) }}",
      "{{ 9 ** 9 ** 9 ** 9 }}",
      "{{ range(10000000)|list }}",
      "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
      "{% macro a(n) %}{{ a(n) ~ a(n) }}{% endmacro %}{{ a(1) }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns, ns] %}{{ ns.l|tojson }}",
      "{{ strftime_now('%c' * 1000) }}",
      "{{ range(100000)|map('string')|map('upper')|join('x' * 10000)|length }}",
      repeated("{% if true %}", 5000) + repeated("{% endif %}", 5000),
      "{{ " + repeated("(", 100000) + "1" + repeated(")", 100000) + " }}",
      "{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}",
      "{{ " + repeated("-", 100000) + "1 }}",
      "{{ " + repeated("not ", 100000) + "1 }}",
      "{{ 1" + repeated("+1", 100000) + " }}",
      "{{ 'a'" + repeated("|upper", 100000) + " }}",
      "{{ a" + repeated(".b", 100000) + " }}",
      "{{ 1" + repeated(" if 1 else 1", 100000) + " }}",
      "{{ a" + repeated("[0", 5000) + repeated("]", 5000) + " }}",
  };
  for (const std::string& one : hostile) {
    SCOPED_TRACE(one.substr(0, 120));
    EXPECT_THAT(rendered_message(one), ::testing::Not(HasSubstr("rendered: ")));
  }
  // Long and flat is fine.
  EXPECT_EQ(rendered(repeated("{% if a %}x{% elif b %}y{% endif %}{{ 1 ~ 2 }}", 2000)), repeated("12", 2000));
}

// Lists that hold one list twice, sixty deep, are small in memory and endless to look at.
TEST(Template, ListsOfTheSameListsEndToo) {
  const std::string made =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  constexpr size_t kSome = size_t{1} << 22;
  EXPECT_EQ(bounded_message(made + "ok", kSome), "rendered: ok");
  for (const char* use :
       {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == ns.y }}", "{{ ns.x in [ns.y] }}",
        "{{ ns.x < ns.y }}", "{{ [ns.x, ns.y] | unique | list | length }}", "{{ [ns.x] | join }}",
        "{{ ns.x ~ '' }}", "{{ ns.x | string | length }}", "{{ '%s' % ns.x }}",
        "{{ [ns.x, ns.y] | sort | length }}", "{{ {'a': ns.x} == {'a': ns.y} }}", "{{ ns.x is eq(ns.y) }}"}) {
    EXPECT_THAT(bounded_message(made + use, kSome), HasSubstr("the template does too much")) << use;
  }
}

TEST(Template, WhatHoldsItselfIsShownShortOrRefused) {
  EXPECT_THAT(rendered_message("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"),
              HasSubstr("<Namespace>"));
  EXPECT_THAT(rendered_message("{% for x in [1] %}{% set loop_ = loop %}{% endfor %}{{ loop_ is defined }}"),
              HasSubstr("False"));
  // What a loop left behind can still be asked.
  EXPECT_EQ(
      rendered("{% set ns = namespace(f=none, l=none) %}{% for x in [1, 2] %}{% set ns.f = loop.cycle %}"
               "{% set ns.l = loop %}{% endfor %}{{ ns.f('a', 'b') }}{{ ns.l.index }}"),
      "b2");
}

TEST(Template, ErrorsNameTheLine) {
  EXPECT_THAT(rendered_message("a\n\n{{ 1 + }}"),
              HasSubstr("template:3: unexpected the end of the print statement"));
  EXPECT_THAT(rendered_message("a\n{% if x %}\n"), HasSubstr("the block `if` has no end"));
  EXPECT_THAT(rendered_message("a\n{{ x|uper }}\n"),
              HasSubstr("template:2: no filter is called `uper`: did you mean `upper`?"));
  EXPECT_THAT(rendered_message("{{ x is strng }}"), HasSubstr("did you mean `string`?"));
  EXPECT_THAT(rendered_message("{% for x in [1] %}\n{{ x.y.z }}{% endfor %}"),
              HasSubstr("template:2: an undefined value has no attribute `z`"));
  EXPECT_THAT(rendered_message("{% include 'x' %}"), HasSubstr("unknown tag `include`"));
  EXPECT_THAT(rendered_message("{% endfor %}"), HasSubstr("unknown tag `endfor`"));
  EXPECT_THAT(rendered_message("{% break %}"), HasSubstr("outside of a loop"));
  EXPECT_THAT(rendered_message("{{ 'a"), HasSubstr("a string has no end"));
  EXPECT_THAT(rendered_message("{# a"), HasSubstr("a comment has no end"));
  EXPECT_THAT(rendered_message("{{ raise_exception('No: {{ x }}') }}"), HasSubstr("No: {{ x }}"));
  EXPECT_THAT(rendered_message("{% set l.x = 1 %}"), HasSubstr("`l` is no namespace"));
}

TEST(Template, VariablesStayAsTheyAre) {
  const Json variables = {{"l", {1, 2}}, {"d", {{"a", 1}}}};
  for (const char* one : {"{{ l.append(3) }}", "{{ d.update({'b': 2}) }}", "{{ l.pop() }}", "{{ d.clear() }}",
                          "{{ l.sort() }}"})
    EXPECT_THAT(rendered_message(one, variables), HasSubstr("which templates cannot")) << one;
  EXPECT_EQ(rendered("{{ ''.__class__ }}{{ l.__len__ }}{{ d.__dict__ }}", variables), "");
}

TEST(Template, DamagedTextPassesThrough) {
  EXPECT_EQ(rendered("{{ x }}|{{ x|length }}|{{ x|upper|length }}|{{ x[::-1]|length }}", {{"x", "a\xff\xc3"}})
                .substr(0, 3),
            "a\xff\xc3");
}

Json conversation() {
  return Json::array({{{"role", "system"}, {"content", "S"}},
                      {{"role", "user"}, {"content", "U1"}},
                      {{"role", "assistant"}, {"content", "A1"}},
                      {{"role", "user"}, {"content", "U2"}}});
}

TEST(ChatTemplate, NamedOnesGiveTheirModelsText) {
  const std::map<std::string, std::string> wanted = {
      {"chatml",
       "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>"
       "\n"
       "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"},
      {"llama-3",
       "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|"
       "end_header_id|>\n\n"
       "U1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>user<|"
       "end_header_id|>\n\n"
       "U2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
      {"llama-2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]"},
      {"mistral", "<s> [INST] S\n\nU1 [/INST] A1</s> [INST] U2 [/INST]"},
      {"zephyr",
       "<|system|>\nS</s>\n<|user|>\nU1</s>\n<|assistant|>\nA1</s>\n<|user|>\nU2</s>\n<|assistant|>\n"},
      {"gemma",
       "<bos><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n<start_of_"
       "turn>user\n"
       "U2<end_of_turn>\n<start_of_turn>model\n"},
      {"phi-3",
       "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|"
       "assistant|>\n"},
      {"alpaca",
       "<s>S\n\n### Instruction:\nU1\n\n### Response:\nA1</s>\n\n### Instruction:\nU2\n\n### Response:\n"}};
  ChatOptions options;
  options.add_generation_prompt = true;
  for (const std::string& name : ChatTemplate::names()) {
    const RenderedText made = ChatTemplate::named(name).render(conversation(), options);
    EXPECT_EQ(made.text, wanted.at(name)) << name;
    ASSERT_EQ(made.generated.size(), 1u) << name;
    const auto [begin, end] = made.generated.front();
    EXPECT_THAT(made.text.substr(begin, end - begin), ::testing::StartsWith("A1")) << name;
    EXPECT_EQ(made.text.substr(begin, end - begin).find('\n'), std::string::npos) << name;
  }
  EXPECT_THROW(ChatTemplate::named("chat-ml"), Error);
}

TEST(ChatTemplate, WhatIsNoConversationIsSaid) {
  const ChatTemplate chat = ChatTemplate::named("chatml");
  EXPECT_THROW(chat.render("text"), Error);
  EXPECT_THROW(chat.render(Json::array({"text"})), Error);
  ChatOptions both;
  both.add_generation_prompt = both.continue_final_message = true;
  EXPECT_THROW(chat.render(conversation(), both), Error);
}

TEST(Messages, RolesAreUsualOnesOrThoseThatTheTemplateNames) {
  const Json slip = {{{"role", "user"}, {"content", "q"}}, {{"role", "asistant"}, {"content", "a"}}};
  EXPECT_THAT(error_text([&] { check_roles(slip, ChatTemplate::named("chatml")); }),
              AllOf(HasSubstr("messages[1].role: expected one of assistant, developer"),
                    HasSubstr("found \"asistant\""), HasSubstr("did you mean `assistant`?")));
  check_roles(slip,
              ChatTemplate("{% if messages[1].role == 'asistant' %}{{ messages[1].content }}{% endif %}"));
  check_roles(conversation(), ChatTemplate::named("chatml"));
}

}  // namespace
}  // namespace msplora
