#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace msplora {

/// How a WordPiece vocabulary is learned.
struct WordPieceTrainerOptions {
  size_t vocab_size = 8192;  // entries in all: special tokens, alphabet and merged pieces
  size_t min_frequency = 2;  // a pair that occurs less often is not merged
  size_t limit_alphabet =
      1000;               // only the most frequent characters enter the alphabet; the rest become [UNK]
  bool lowercase = true;  // also strips accents, as BERT's uncased models do
  /// Ids from 0 in this order. Must hold [UNK], [CLS] and [SEP], which the written tokenizer refers to.
  std::vector<std::string> special_tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  size_t max_input_chars_per_word =
      100;                        // longer words are [UNK] when encoding, so they are not learned from
  size_t model_max_length = 512;  // written to tokenizer_config.json
};

/// Learns a WordPiece vocabulary from text and writes a directory that Hugging Face reads: tokenizer.json,
/// vocab.txt and tokenizer_config.json.
///
/// The text is normalised and split as BERT does; the vocabulary starts with the characters (as they begin a
/// word, and with "##" inside one) and grows by joining the most frequent adjacent pair, ties going to the
/// smaller ids. Deterministic: the result depends only on the options and on how often each word occurs.
/// Memory grows with the number of different words, not with the text.
///
/// Throws Error{kConfig} for options that contradict each other (or an alphabet that fills vocab_size),
/// Error{kData} when there is no text, Error{kIo} for files.
void train_wordpiece(const WordPieceTrainerOptions& options,
                     const std::vector<std::filesystem::path>& text_files,
                     const std::filesystem::path& output_directory);

/// The same for lines from anywhere: `next_line` fills its argument and returns false at the end.
void train_wordpiece(const WordPieceTrainerOptions& options,
                     const std::function<bool(std::string&)>& next_line,
                     const std::filesystem::path& output_directory);

/// How a byte-level BPE vocabulary (that of GPT-2's kind) is learned.
struct BytePairTrainerOptions {
  size_t vocab_size = 8192;  // entries in all: special tokens, 256 bytes and merged pieces
  size_t min_frequency = 2;  // a pair that occurs less often is not merged
  std::vector<std::string> special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                             "<|pad|>"};  // ids from 0 in this order
  /// Roles of special tokens, written to tokenizer_config.json; "" for none. `begin` is put before a text.
  std::string begin = "<|endoftext|>", end = "<|endoftext|>", pad = "<|pad|>";
  size_t model_max_length = 512;  // written to tokenizer_config.json
};

/// Learns byte-level BPE from text, line by line, and writes tokenizer.json and tokenizer_config.json. Text
/// is split by GPT-2's pattern and spelled in its alphabet of 256 characters; the vocabulary grows by joining
/// the most frequent adjacent pair, ties going to the smaller ids, as Hugging Face's trainer does. No text is
/// unknown to such a tokenizer. Deterministic, errors and memory as for train_wordpiece().
void train_byte_pair(const BytePairTrainerOptions& options,
                     const std::vector<std::filesystem::path>& text_files,
                     const std::filesystem::path& output_directory);

}  // namespace msplora
