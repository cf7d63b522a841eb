#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace msplora::report {

/// What keeps `text` from being well-formed XML with ids that are used once, or "". Knows elements,
/// attributes, the five entities, and a declaration or doctype at the start; nothing else may occur.
class XmlCheck {
 public:
  static std::string problem_of(std::string_view text) { return XmlCheck(text).check(); }

 private:
  explicit XmlCheck(std::string_view text) : text_(text) {}

  std::string check() {
    for (const char byte : text_) {
      if (static_cast<unsigned char>(byte) < 0x20 && byte != '\n') return "a control character";
    }
    while (problem_.empty() && at_ < text_.size()) {
      if (text_[at_] != '<') {
        if (open_.empty() && text_[at_] != '\n') return fail("text outside of the root");
        character("<");
      } else if (starts("</")) {
        end_tag();
      } else if (starts("<?") || starts("<!DOCTYPE")) {
        if (!open_.empty()) return fail("a declaration inside");
        at_ = text_.find('>', at_) + 1;
      } else {
        start_tag();
      }
    }
    if (problem_.empty() && !open_.empty()) return "not closed: " + open_.back();
    return problem_.empty() && roots_ != 1 ? "not one root" : problem_;
  }

  bool starts(std::string_view with) const { return text_.substr(at_, with.size()) == with; }
  std::string fail(const std::string& why) {
    if (problem_.empty()) problem_ = why + " before: " + std::string(text_.substr(at_, 60));
    at_ = text_.size();
    return problem_;
  }

  /// One character of text; those of `refused` may not occur as they are.
  void character(std::string_view refused) {
    if (text_[at_] == '&') {
      for (const std::string_view entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}) {
        if (starts(entity)) {
          at_ += entity.size();
          return;
        }
      }
      fail("an unknown entity");
    } else if (refused.find(text_[at_]) != std::string_view::npos) {
      fail("a character that must be escaped");
    } else {
      ++at_;
    }
  }

  std::string name() {
    const size_t start = at_;
    while (at_ < text_.size() && std::string_view(" =/>\n").find(text_[at_]) == std::string_view::npos) ++at_;
    if (at_ == start) fail("no name");
    return std::string(text_.substr(start, at_ - start));
  }

  void end_tag() {
    at_ += 2;
    const std::string tag = name();
    if (open_.empty() || open_.back() != tag) {
      fail("</" + tag + "> does not close what is open");
      return;
    }
    open_.pop_back();
    if (!starts(">")) fail("no >");
    ++at_;
  }

  void attribute(std::set<std::string>& names) {
    const std::string key = name();
    if (!names.insert(key).second) fail("twice " + key);
    if (!starts("=\"")) {
      fail("no value of " + key);
      return;
    }
    at_ += 2;
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] != '"') character("<");
    if (key == "id" && !ids_.insert(std::string(text_.substr(start, at_ - start))).second)
      fail("an id twice");
    ++at_;
  }

  void start_tag() {
    if (open_.empty()) ++roots_;
    ++at_;
    open_.push_back(name());
    std::set<std::string> names;
    while (problem_.empty() && at_ < text_.size()) {
      if (starts("/>")) {
        open_.pop_back();
        at_ += 2;
        return;
      }
      if (starts(">")) {
        ++at_;
        return;
      }
      if (!starts(" ")) {
        fail("no space between attributes");
        return;
      }
      ++at_;
      attribute(names);
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  int roots_ = 0;
  std::vector<std::string> open_;
  std::set<std::string> ids_;
  std::string problem_;
};

}  // namespace msplora::report
