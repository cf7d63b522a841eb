#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace msplora {

/// How a parameter of a model stands in GGUF files of it: its name there, and what is done to its values when
/// it is written. Reading undoes it. models/gguf.h gives the list of an architecture.
struct GgufName {
  std::string parameter;  // under Hugging Face's name
  std::string stored;
  /// Hugging Face stores [in, out] (GPT-2's layers), the file [out, in].
  bool is_transposed = false;
  /// The file holds 1 + w (Gemma's norms).
  bool has_one_added = false;
  /// > 0: the rows of each of so many heads are interleaved, as below (queries and keys of Llama's kind,
  /// which llama.cpp turns by neighbouring pairs instead of by halves; biases too).
  int64_t interleaved_heads = 0;
};

/// Where the rows of interleaved heads stand: element i is the file's row that holds row i of the parameter.
/// Of a head of h rows, row e h/2 + i of the parameter is row 2 i + e of the file (e = 0 or 1).
std::vector<int64_t> interleaved_rows(int64_t rows, int64_t heads);
/// The other way round: element i is the row of the parameter that stands in row i of the file.
std::vector<int64_t> rows_in_file(int64_t rows, int64_t heads);

}  // namespace msplora
