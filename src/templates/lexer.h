#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace msplora::templates {

enum class TokenKind {
  kText,       // outside of tags
  kOpenPrint,  // {{
  kClosePrint,
  kOpenTag,  // {%
  kCloseTag,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of strings without quotes and escapes
  int line = 1;
};

/// A template in tokens, with the white space gone that trim_blocks, lstrip_blocks, `-` and `+` take,
/// comments gone, and raw blocks as text. Throws Failure; `line` says where.
std::vector<Token> tokenize(std::string_view source, int& line);

/// For messages: "end of print statement", "`+`".
std::string describe(const Token& token);

}  // namespace msplora::templates
