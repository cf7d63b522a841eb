#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "templates/text.h"
#include "templates/value.h"

namespace msplora::templates {
namespace {

void append_escape(TextMaker& out, uint32_t unit) {
  constexpr const char* kHex = "0123456789abcdef";
  out.add("\\u");
  for (int shift = 12; shift >= 0; shift -= 4) out.add(kHex[(unit >> shift) & 15]);
}

void append_string(TextMaker& out, const std::string& text, bool ascii) {
  out.add('"');
  for (const std::string_view c : characters(text)) {
    const char32_t code = code_point(c);
    switch (code) {
      case '"':
        out.add("\\\"");
        break;
      case '\\':
        out.add("\\\\");
        break;
      case '\n':
        out.add("\\n");
        break;
      case '\r':
        out.add("\\r");
        break;
      case '\t':
        out.add("\\t");
        break;
      case '\b':
        out.add("\\b");
        break;
      case '\f':
        out.add("\\f");
        break;
      default:
        if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000 && code != 0x7F)) {
          append_escape(out, code);
        } else if (ascii && code >= 0x10000) {
          append_escape(out, 0xD800 + ((code - 0x10000) >> 10));
          append_escape(out, 0xDC00 + ((code - 0x10000) & 0x3FF));
        } else {
          out.add(c);
        }
    }
  }
  out.add('"');
}

std::string key_text(const Value& key) {
  if (key.is_none()) return "null";
  if (key.is_bool()) return key.truth() ? "true" : "false";
  return key.text();
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, TextMaker& out) : style_(style), out_(out) {}

  void write(const Value& value, size_t depth) {
    Budget::charge(16);
    if (value.is_none()) {
      out_.add("null");
    } else if (value.is_bool()) {
      out_.add(value.truth() ? "true" : "false");
    } else if (value.is_int() || value.is_float()) {
      const std::string text = value.repr();
      out_.add(text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text);
    } else if (value.is_string()) {
      append_string(out_, value.string(), style_.ascii);
    } else if (value.is_sequence()) {
      write_all('[', ']', value.items(), depth, [&](const Value& item) { write(item, depth + 1); });
    } else if (value.is_dict()) {
      write_dict(value.dict(), depth);
    } else {
      fail("Object of type " + value.type_name() + " is not JSON serializable");
    }
  }

 private:
  void write_dict(const Dict& dict, size_t depth) {
    Budget::charge(16 * dict.entries().size());
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sorted)
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto* a, const auto* b) { return a->first.compare(b->first) < 0; });
    write_all('{', '}', entries, depth, [&](const Dict::Entry* entry) {
      append_string(out_, key_text(entry->first), style_.ascii);
      out_.add(style_.behind_key);
      write(entry->second, depth + 1);
    });
  }
  template <class Items, class Write>
  void write_all(char open, char close, const Items& items, size_t depth, const Write& write_item) {
    out_.add(open);
    bool is_first = true;
    for (const auto& item : items) {
      if (!is_first) out_.add(style_.between);
      is_first = false;
      break_line(depth + 1);
      write_item(item);
    }
    if (!is_first) break_line(depth);
    out_.add(close);
  }
  void break_line(size_t depth) {
    if (style_.indent < 0) return;
    out_.add('\n');
    out_.add(static_cast<size_t>(style_.indent) * depth, ' ');
  }

  const JsonStyle& style_;
  TextMaker& out_;
};

}  // namespace

Value json_text(const Value& value, const JsonStyle& style) {
  TextMaker out;
  JsonWriter(style, out).write(value, 0);
  return out;
}

}  // namespace msplora::templates
