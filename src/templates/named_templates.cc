// Chat templates that are known by name.
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/templates/chat_template.h"

namespace msplora {
namespace {

struct NamedTemplate {
  const char* source;
  std::map<std::string, std::string> tokens;  // that it writes where the tokenizer names none
};

// What an assistant says ends with its end token: that is learned, the line end behind it is not.
const std::map<std::string, NamedTemplate>& all() {
  static const std::map<std::string, NamedTemplate> kTemplates = {
      {"chatml",
       {R"({%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}
{{ message.content + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%})",
        {}}},
      {"llama-3",
       {R"({{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content|trim + '<|eot_id|>' }}{% endgeneration %}
{%- else -%}
{{ message.content|trim + '<|eot_id|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%})",
        {{"bos_token", "<|begin_of_text|>"}}}},
      {"llama-2",
       {R"({%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = '<<SYS>>\n' + message.content|trim + '\n<</SYS>>\n\n' -%}
{%- elif message.role == 'user' -%}
{{ bos_token + '[INST] ' + ns.system + message.content|trim + ' [/INST]' }}
{%- set ns.system = '' -%}
{%- else -%}
{{ ' ' }}{% generation %}{{ message.content|trim + ' ' + eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%})",
        {{"bos_token", "<s>"}, {"eos_token", "</s>"}}}},
      {"mistral",
       {R"({{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = message.content + '\n\n' -%}
{%- elif message.role == 'user' -%}
{{ ' [INST] ' + ns.system + message.content + ' [/INST]' }}
{%- set ns.system = '' -%}
{%- else -%}
{{ ' ' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%})",
        {{"bos_token", "<s>"}, {"eos_token", "</s>"}}}},
      {"zephyr",
       {R"({%- for message in messages -%}
{{ '<|' + message.role + '|>\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n' }}
{%- else -%}
{{ message.content + eos_token + '\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%})",
        {{"eos_token", "</s>"}}}},
      {"phi-3",
       {R"({%- for message in messages -%}
{{ '<|' + message.role + '|>\n' }}
{%- if message.role == 'assistant' -%}
{% generation %}{{ message.content + '<|end|>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}
{{ message.content + '<|end|>\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%})",
        {}}},
      {"gemma",
       {R"({{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set ns.system = message.content|trim + '\n\n' -%}
{%- elif message.role == 'assistant' -%}
{{ '<start_of_turn>model\n' }}{% generation %}{{ message.content|trim + '<end_of_turn>' }}{% endgeneration %}{{ '\n' }}
{%- else -%}
{{ '<start_of_turn>' + message.role + '\n' + ns.system + message.content|trim + '<end_of_turn>\n' }}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%})",
        {{"bos_token", "<bos>"}}}},
      {"alpaca",
       {R"({{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content + '\n\n' }}
{%- elif message.role == 'user' -%}
{{ '### Instruction:\n' + message.content + '\n\n' }}
{%- else -%}
{{ '### Response:\n' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\n' }}{%- endif -%})",
        {{"bos_token", "<s>"}, {"eos_token", "</s>"}}}},
  };
  return kTemplates;
}

}  // namespace

std::vector<std::string> ChatTemplate::names() {
  std::vector<std::string> names;
  for (const auto& [name, one] : all()) names.push_back(name);
  return names;
}

ChatTemplate ChatTemplate::named(const std::string& name, std::map<std::string, std::string> special_tokens) {
  const auto found = all().find(name);
  if (found == all().end()) {
    throw Error(ErrorCode::kUsage, "chat template", "there is none called `" + name + "`",
                did_you_mean(name, names()));
  }
  for (const auto& [token, text] : found->second.tokens) special_tokens.emplace(token, text);
  return ChatTemplate(found->second.source, std::move(special_tokens), "chat template " + name);
}

}  // namespace msplora
