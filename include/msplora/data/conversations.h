#pragma once

#include <filesystem>
#include <string>

#include "msplora/data/dataset.h"
#include "msplora/data/options.h"

/// Instruction data: what people ask and models answer.
namespace msplora {

/// Rows of a file of instructions. Example::text is each row as JSON in one of three forms, whatever keys the
/// file has: {"messages": [...]}, {"prompt": ..., "completion": ...} (texts, or lists of messages) or
/// {"text": ...}, the first two with "tools" where there are any.
///
/// The file holds JSON objects, one a line or in a list (.json), or a table with a header (.csv, .tsv), or
/// plain texts, one a line (.txt). A row of Alpaca becomes a prompt in Alpaca's words, or with
/// `alpaca_as_messages` a message and its answer. Throws Error{kData} with file and line for what is no row
/// of its layout, naming the keys found and expected; all rows must have one layout.
Dataset read_conversations(const std::filesystem::path& file, const ChatDataOptions& options,
                           bool alpaca_as_messages, const std::string& delimiter = "auto");

}  // namespace msplora
