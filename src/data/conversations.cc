#include "msplora/data/conversations.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/dump_json.h"
#include "msplora/core/input_file.h"
#include "msplora/data/options.h"
#include "msplora/data/reader.h"
#include "msplora/data/row_json.h"
#include "msplora/templates/chat_template.h"
#include "msplora/templates/messages.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Layout {
  const char* name;
  std::vector<std::string> keys;  // that its rows must have
  const char* holds;              // what stands under them
};

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {"messages", {"messages"}, "a list of messages"},
      {"sharegpt", {"conversations"}, "a list of messages"},
      {"alpaca", {"instruction", "output"}, "texts"},
      {"prompt_completion", {"prompt", "completion"}, "texts or lists of messages"},
      {"text", {"text"}, "a text"}};
  return all;
}

[[noreturn]] void refuse(const std::string& where, const std::string& what, const std::string& hint = {}) {
  throw Error(ErrorCode::kData, where, what, hint);
}

std::string known_layouts() {
  std::vector<std::string> all;
  for (const Layout& one : layouts())
    all.push_back(fmt::format("{} ({})", fmt::join(one.keys, ", "), one.name));
  return fmt::format("{}", fmt::join(all, "; "));
}

bool fits(const Layout& layout, const Json& row) {
  return std::all_of(layout.keys.begin(), layout.keys.end(),
                     [&](const std::string& key) { return row.contains(key) && !row[key].is_null(); });
}

const Layout& layout_named(const std::string& name) {
  return *std::find_if(layouts().begin(), layouts().end(),
                       [&](const Layout& one) { return one.name == name; });
}

/// Says which keys of a layout are there with nothing under them.
void refuse_nulls(const Layout& layout, const Json& row, const std::string& where) {
  std::vector<std::string> empty;
  for (const std::string& key : layout.keys) {
    if (!row.contains(key)) return;
    if (row[key].is_null()) empty.push_back(key);
  }
  if (!empty.empty())
    refuse(where, fmt::format("`{}`: expected {}, found null", fmt::join(empty, "`, `"), layout.holds));
}

const Layout& layout_of(const Json& row, const std::string& where) {
  for (const Layout& one : layouts()) {
    if (fits(one, row)) return one;
  }
  for (const Layout& one : layouts()) refuse_nulls(one, row, where);
  std::vector<std::string> known;
  for (const Layout& one : layouts()) known.insert(known.end(), one.keys.begin(), one.keys.end());
  std::string hint;
  for (const auto& [key, value] : row.items()) {
    const bool is_known = std::find(known.begin(), known.end(), key) != known.end();
    if (hint.empty() && !is_known) hint = did_you_mean(key, known);
  }
  refuse(where, fmt::format("expected the keys of one of {}; found {}", known_layouts(), json_keys(row)),
         hint);
}

std::string text_of(const Json& row, const char* key, const std::string& where, bool is_needed = true) {
  const Json value = row.value(key, Json());
  if (value.is_null() && !is_needed) return "";
  if (!value.is_string())
    refuse(where, fmt::format("`{}`: expected a text, found {}", key, json_excerpt(value)));
  return value;
}

void check_conversation(const Json& messages, const std::string& key, const std::string& where) {
  try {
    check_messages(messages, key);
  } catch (const Error& error) {
    throw error_of_row(error, where);
  }
  if (messages.empty()) refuse(where, fmt::format("`{}`: expected messages, found an empty list", key));
}

/// By ShareGPT's names of those who speak.
Json message_of_turn(const Json& turn, const std::string& place, const std::string& where) {
  static const std::map<std::string, std::string> kRoles = {
      {"human", "user"},        {"user", "user"},     {"gpt", "assistant"}, {"assistant", "assistant"},
      {"chatgpt", "assistant"}, {"system", "system"}, {"tool", "tool"},     {"observation", "tool"}};
  const Json value = turn.value("value", Json());
  if (!turn["from"].is_string() || !(value.is_string() || value.is_array()))
    refuse(where, place + ": expected `from` and `value`, found " + json_excerpt(turn));
  const std::string from = turn["from"];
  const auto role = kRoles.find(from);
  if (role == kRoles.end()) {
    std::vector<std::string> known;
    for (const auto& [name, meaning] : kRoles) known.push_back(name);
    refuse(where,
           fmt::format("{}: nobody is called `{}` here; known are {}", place, from, fmt::join(known, ", ")),
           did_you_mean(from, known));
  }
  Json message = {{"role", role->second}, {"content", value}};
  if (turn.contains("weight")) message["weight"] = turn["weight"];
  return message;
}

/// Messages of `role` and `content`, which stay as they are, or turns of `from` and `value`.
Json messages_under(const Json& row, const std::string& key, const std::string& where) {
  Json messages = row[key];
  if (messages.is_array()) {
    for (size_t i = 0; i < messages.size(); ++i) {
      Json& turn = messages[i];
      if (turn.is_object() && turn.contains("from") && !turn.contains("role"))
        turn = message_of_turn(turn, fmt::format("{}[{}]", key, i), where);
    }
  }
  check_conversation(messages, key, where);
  return messages;
}

Json messages_of_sharegpt(const Json& row, const std::string& where) {
  Json messages = messages_under(row, "conversations", where);
  if (const std::string system = text_of(row, "system", where, false); !system.empty())
    messages.insert(messages.begin(), Json{{"role", "system"}, {"content", system}});
  return messages;
}

/// Alpaca's own words.
std::string alpaca_prompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return "Below is an instruction that describes a task. Write a response that appropriately completes the "
           "request.\n\n### Instruction:\n" +
           instruction + "\n\n### Response:\n";
  }
  return "Below is an instruction that describes a task, paired with an input that provides further context. "
         "Write a response that appropriately completes the request.\n\n### Instruction:\n" +
         instruction + "\n\n### Input:\n" + input + "\n\n### Response:\n";
}

Json of_alpaca(const Json& row, bool as_messages, const std::string& where) {
  const std::string instruction = text_of(row, "instruction", where),
                    input = text_of(row, "input", where, false), output = text_of(row, "output", where),
                    system = text_of(row, "system", where, false);
  if (!as_messages) {
    const std::string prompt = alpaca_prompt(instruction, input);
    return {{"prompt", system.empty() ? prompt : system + "\n\n" + prompt}, {"completion", output}};
  }
  Json messages = Json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  const Json history = row.value("history", Json());
  if (!history.is_null() && !history.is_array())
    refuse(where, "`history`: expected a list of pairs of texts, found " + json_excerpt(history));
  for (const Json& turn : history) {
    if (!turn.is_array() || turn.size() != 2 || !turn[0].is_string() || !turn[1].is_string())
      refuse(where, "`history`: expected pairs of texts, found " + json_excerpt(turn));
    messages.push_back({{"role", "user"}, {"content", turn[0]}});
    messages.push_back({{"role", "assistant"}, {"content", turn[1]}});
  }
  messages.push_back(
      {{"role", "user"}, {"content", input.empty() ? instruction : instruction + "\n" + input}});
  messages.push_back({{"role", "assistant"}, {"content", output}});
  return {{"messages", messages}};
}

Json of_prompt_completion(const Json& row, const std::string& where) {
  Json out;
  for (const char* key : {"prompt", "completion"}) {
    if (row[key].is_array()) {
      out[key] = messages_under(row, key, where);
    } else {
      out[key] = text_of(row, key, where);
    }
  }
  if (out["prompt"].is_array() != out["completion"].is_array())
    refuse(where, "`prompt` and `completion` are both texts, or both lists of messages");
  return out;
}

Json canonical(const Layout& layout, const Json& row, bool alpaca_as_messages, const std::string& where) {
  if (!fits(layout, row)) {
    refuse_nulls(layout, row, where);
    refuse(where, fmt::format("expected {} as in the rows before it; found {}", fmt::join(layout.keys, ", "),
                              json_keys(row)));
  }
  const std::string name = layout.name;
  Json out;
  if (name == "messages") {
    out["messages"] = messages_under(row, "messages", where);
  } else if (name == "sharegpt") {
    out["messages"] = messages_of_sharegpt(row, where);
  } else if (name == "alpaca") {
    out = of_alpaca(row, alpaca_as_messages, where);
  } else if (name == "prompt_completion") {
    out = of_prompt_completion(row, where);
  } else {
    out["text"] = text_of(row, "text", where);
  }
  try {
    if (const Json tools = tools_of(row.value("tools", Json())); !tools.is_null()) out["tools"] = tools;
  } catch (const Error& error) {
    throw error_of_row(error, where);
  }
  return out;
}

using UseRow = std::function<void(const Json& row, int64_t line)>;

void use_object(const Json& row, const fs::path& file, int64_t line, const UseRow& use) {
  if (!row.is_object()) refuse(file_and_line(file, line), "expected an object, found " + json_excerpt(row));
  use(row, line);
}

/// The elements of a list, one at a time, with the lines they begin in.
void each_of_list(const std::string& text, const fs::path& file, const UseRow& use) {
  int64_t line = 1, begun = 0;
  size_t begin = 0;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') {
      ++depth;
      if (depth == 2) begin = i, begun = line;
      continue;
    }
    if (c != ']' && c != '}') continue;
    --depth;
    if (depth == 1) {
      const std::string where = file_and_line(file, begun);
      use_object(parse_row(text.substr(begin, i + 1 - begin), where), file, begun, use);
    }
    if (depth <= 0) break;
  }
  if (depth != 0) refuse(file.string(), "the list has no end");
  parse_row(text, file.string(), text.size());  // what stands between the elements
}

/// What is left of a file, which may be a pipe.
std::string rest_of(LineReader& lines) {
  std::string text;
  for (std::string line; lines.next(line, /*keep_cr=*/true);) text.append(line).push_back('\n');
  return text;
}

void each_row(const fs::path& file, const std::string& delimiter, const UseRow& use) {
  const std::string extension = unpacked_name(file).extension().string();
  if (extension == ".txt") {
    LineReader lines(file);
    for (std::string line; lines.next(line);) {
      if (!line.empty()) use({{"text", line}}, lines.line());
    }
    return;
  }
  if (extension == ".csv" || extension == ".tsv") {
    std::vector<std::string> known;
    for (const Layout& one : layouts()) known.insert(known.end(), one.keys.begin(), one.keys.end());
    const auto reader = RecordReader::open(file, resolve_format(file, "auto"), delimiter, known);
    Record record;
    if (!reader->next(record)) return;
    const std::vector<std::string> header = record.fields;
    while (reader->next(record)) {
      if (record.fields.size() != header.size()) {
        refuse(file_and_line(file, record.line),
               fmt::format("has {} fields, the header {}", record.fields.size(), header.size()));
      }
      Json row = Json::object();
      for (size_t i = 0; i < header.size(); ++i) row[header[i]] = record.fields[i];
      use(row, record.line);
    }
    return;
  }
  LineReader lines(file);
  const std::vector<std::string> ahead = lines.peek(1);
  const size_t first = ahead.empty() ? std::string::npos : ahead[0].find_first_not_of(" \t\r\xEF\xBB\xBF");
  if (extension == ".json" && first != std::string::npos && ahead[0][first] == '[')
    return each_of_list(rest_of(lines), file, use);
  for (std::string line; lines.next(line);) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    const std::string where = file_and_line(file, lines.line());
    use_object(parse_row(line, where), file, lines.line(), use);
  }
}

}  // namespace

const char* chat_template_help() {
  static const std::string kHelp = fmt::format(
      "How conversations are written: `auto` takes the model's own chat template; else a name ({}) or a file",
      fmt::join(ChatTemplate::names(), ", "));
  return kHelp.c_str();
}

Dataset read_conversations(const fs::path& file, const ChatDataOptions& options, bool alpaca_as_messages,
                           const std::string& delimiter) {
  const Layout* layout = options.layout == "auto" ? nullptr : &layout_named(options.layout);
  const bool is_recognised = layout == nullptr;
  std::vector<Example> examples;
  each_row(file, delimiter, [&](const Json& row, int64_t line) {
    const std::string where = file_and_line(file, line);
    if (layout == nullptr) layout = &layout_of(row, where);
    Example example;
    example.text = canonical(*layout, row, alpaca_as_messages, where).dump();
    example.line = line;
    examples.push_back(std::move(example));
  });
  if (examples.empty()) refuse(file.string(), "holds no rows");
  Dataset data(file, std::move(examples), /*has_labels=*/false);
  data.set_columns(layout->keys);
  if (is_recognised)
    data.add_note(fmt::format("{}: rows of {} (recognised by {})", file.string(), layout->name,
                              fmt::join(layout->keys, ", ")));
  return data;
}

}  // namespace msplora
