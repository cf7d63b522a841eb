#pragma once

#include "msplora/data/conversations.h"
#include "msplora/data/encode.h"
#include "msplora/templates/chat_template.h"

namespace msplora {

/// What rows of instructions are encoded with.
struct ConversationEncoding {
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;  // null: there are no messages
  ChatDataOptions options;
  int64_t max_length = 0;  // of an example in tokens; 0: no limit
};

/// Rows of read_conversations() as examples, with the tokens that are learned (TokenizedExample::predicted).
///
/// Conversations are written by the template and encoded without further special tokens; what the assistant
/// says is what the template marks ({% generation %}), else what stands between a prompt for an answer and
/// the next turn. Texts, prompts and completions are encoded as one text, with the tokenizer's special tokens
/// and its end token behind them unless they end with it. Of a completion, all tokens are learned that the
/// ids of the prompt alone do not begin with, so one that reaches across the border too. Rows of which
/// nothing is learned, because they were cut or hold no answer, are left out and counted. Throws
/// Error{kData} with file and line where a template refuses a row, where messages need a template, or where
/// it cannot be told what the assistant says.
EncodedDataset encode_conversations(const Dataset& rows, const ConversationEncoding& how, int threads = 0);

}  // namespace msplora
