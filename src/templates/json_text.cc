#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "templates/text.h"
#include "templates/value.h"

namespace msplora::templates {
namespace {

void append_escape(std::string& out, uint32_t unit) {
  constexpr const char* kHex = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += kHex[(unit >> shift) & 15];
}

void append_string(std::string& out, const std::string& text, bool ascii) {
  out += '"';
  for (const std::string_view c : characters(text)) {
    const char32_t code = code_point(c);
    switch (code) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000 && code != 0x7F)) {
          append_escape(out, code);
        } else if (ascii && code >= 0x10000) {
          append_escape(out, 0xD800 + ((code - 0x10000) >> 10));
          append_escape(out, 0xDC00 + ((code - 0x10000) & 0x3FF));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

std::string key_text(const Value& key) {
  if (key.is_none()) return "null";
  if (key.is_bool()) return key.truth() ? "true" : "false";
  return key.text();
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, std::string& out) : style_(style), out_(out) {}

  void write(const Value& value, int depth) {
    if (depth > kDeepestValue) fail("a value that holds itself is no JSON");
    Budget::charge(value.is_string() ? value.string().size() + 16 : 16);
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.truth() ? "true" : "false";
    } else if (value.is_int() || value.is_float()) {
      const std::string text = value.repr();
      out_ += text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text;
    } else if (value.is_string()) {
      append_string(out_, value.string(), style_.ascii);
    } else if (value.is_sequence()) {
      write_all('[', ']', value.items(), depth, [&](const Value& item) { write(item, depth + 1); });
    } else if (value.is_dict()) {
      auto entries = value.dict().entries;
      if (style_.sorted)
        std::stable_sort(entries.begin(), entries.end(),
                         [](const auto& a, const auto& b) { return a.first.compare(b.first) < 0; });
      write_all('{', '}', entries, depth, [&](const auto& entry) {
        append_string(out_, key_text(entry.first), style_.ascii);
        out_ += style_.behind_key;
        write(entry.second, depth + 1);
      });
    } else {
      fail("Object of type " + value.type_name() + " is not JSON serializable");
    }
  }

 private:
  template <class Items, class Write>
  void write_all(char open, char close, const Items& items, int depth, const Write& write_item) {
    out_ += open;
    bool is_first = true;
    for (const auto& item : items) {
      if (!is_first) out_ += style_.between;
      is_first = false;
      break_line(depth + 1);
      write_item(item);
    }
    if (!is_first) break_line(depth);
    out_ += close;
  }
  void break_line(int depth) {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(style_.indent) * static_cast<size_t>(depth), ' ');
  }

  const JsonStyle& style_;
  std::string& out_;
};

}  // namespace

std::string json_text(const Value& value, const JsonStyle& style) {
  std::string out;
  JsonWriter(style, out).write(value, 0);
  return out;
}

}  // namespace msplora::templates
