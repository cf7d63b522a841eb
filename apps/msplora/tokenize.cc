#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/dump_json.h"
#include "msplora/core/file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/stopwatch.h"
#include "msplora/core/threads.h"
#include "msplora/data/reader.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/tokenizers/trainer.h"
#include "program.h"

namespace msplora {
namespace {

struct TokenizeArguments {
  std::string model;
  std::vector<std::string> files;
  bool decode = false;
  bool ids = false;
  bool pair = false;
  std::string offsets;
  int64_t max_length = 0;
  int64_t stride = -1;
  std::string truncate = "longest_first";
  bool bench = false;
  bool train = false;
  std::string type = "wordpiece";
  std::string output;
  int64_t vocab_size = 8192;
  bool cased = false;
  bool overwrite = false;
};

/// Calls `use` with every line of the files, or of standard input without files.
template <class Use>
void for_each_line(const std::vector<std::string>& files, Use&& use) {
  const auto use_unless_stopped = [&](const std::string& text, const std::string& where) {
    if (interrupt_requested()) throw Error(ErrorCode::kInterrupted, where, "stopped");
    use(text, where);
  };
  std::string line;
  if (files.empty()) {
    for (int64_t number = 1; std::getline(std::cin, line); ++number)
      use_unless_stopped(line, file_and_line("standard input", number));
  }
  for (const std::string& file : files) {
    LineReader reader(file);
    while (reader.next(line)) use_unless_stopped(line, file_and_line(file, reader.line()));
  }
}

/// The two texts of a line.
TextPair tab_separated(const std::string& line, const std::string& where) {
  const size_t tab = line.find('\t');
  if (tab == std::string::npos || line.find('\t', tab + 1) != std::string::npos) {
    throw Error(ErrorCode::kData, where,
                fmt::format("--pair: expected two texts with one tab between them, found {} tabs",
                            std::count(line.begin(), line.end(), '\t')));
  }
  return {std::string_view(line).substr(0, tab), std::string_view(line).substr(tab + 1)};
}

EncodeOptions encode_options(const TokenizeArguments& arguments) {
  EncodeOptions options;
  options.max_length = static_cast<size_t>(arguments.max_length);
  options.stride = static_cast<size_t>(std::max<int64_t>(arguments.stride, 0));
  options.truncation = arguments.truncate == "only_first"    ? TruncationStrategy::kOnlyFirst
                       : arguments.truncate == "only_second" ? TruncationStrategy::kOnlySecond
                                                             : TruncationStrategy::kLongestFirst;
  options.offsets = arguments.offsets == "bytes"        ? OffsetUnit::kBytes
                    : arguments.offsets == "characters" ? OffsetUnit::kCharacters
                                                        : OffsetUnit::kNone;
  return options;
}

nlohmann::ordered_json to_json(const Tokenizer& tokenizer, const Encoding& encoding, bool offsets) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  for (const int32_t id : encoding.ids) tokens.push_back(tokenizer.id_to_token(id));
  nlohmann::ordered_json json = {{"ids", encoding.ids}, {"type_ids", encoding.type_ids}, {"tokens", tokens}};
  if (offsets) {
    json["offsets"] = nlohmann::ordered_json::array();
    for (const TextSpan& span : encoding.offsets) json["offsets"].push_back({span.begin, span.end});
  }
  return json;
}

std::string to_text(const Tokenizer& tokenizer, const Encoding& encoding, bool ids) {
  std::string text;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    if (i > 0) text += ' ';
    text += ids ? std::to_string(encoding.ids[i]) : tokenizer.id_to_token(encoding.ids[i]);
    if (!encoding.offsets.empty())
      text += fmt::format("[{},{})", encoding.offsets[i].begin, encoding.offsets[i].end);
  }
  return text;
}

void encode(const TokenizeArguments& arguments, const CommonOptions& common) {
  const auto tokenizer = Tokenizer::load(arguments.model);
  const EncodeOptions options = encode_options(arguments);
  int64_t number = 0;
  for_each_line(arguments.files, [&](const std::string& line, const std::string& where) {
    const TextPair text = arguments.pair ? tab_separated(line, where) : TextPair{line, std::nullopt};
    const bool windows = arguments.stride >= 0;
    const auto encodings = windows ? tokenizer->encode_windows(text, options)
                                   : std::vector<Encoding>{tokenizer->encode(text, options)};
    ++number;
    for (const Encoding& encoding : encodings) {
      if (!common.json) {
        std::cout << to_text(*tokenizer, encoding, arguments.ids) << "\n";
        continue;
      }
      nlohmann::ordered_json json = to_json(*tokenizer, encoding, options.offsets != OffsetUnit::kNone);
      if (windows) json["line"] = number;
      std::cout << dump_json(json) << "\n";
    }
  });
}

void decode(const TokenizeArguments& arguments, const CommonOptions& common) {
  const auto tokenizer = Tokenizer::load(arguments.model);
  for_each_line(arguments.files, [&](const std::string& line, const std::string& where) {
    std::vector<int32_t> ids;
    size_t end = 0;
    for (size_t begin = line.find_first_not_of(" \t,[]"); begin != std::string::npos;
         begin = line.find_first_not_of(" \t,[]", end)) {
      end = std::min(line.find_first_of(" \t,[]", begin), line.size());
      const std::string word = line.substr(begin, end - begin);
      const bool is_number = word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number || std::stoul(word) >= tokenizer->vocab_size()) {
        throw Error(ErrorCode::kData, where,
                    fmt::format("expected ids below {}, found `{}`", tokenizer->vocab_size(), word));
      }
      ids.push_back(std::stoi(word));
    }
    const std::string text = tokenizer->decode(ids);
    std::cout << (common.json ? dump_json(nlohmann::json(text)) : text) << "\n";
  });
}

/// MB/s of encoding all lines at once, the best of three.
double speed(const Tokenizer& tokenizer, const std::vector<TextPair>& texts, size_t bytes, int threads) {
  double best = 0.0;
  for (int i = 0; i < 3; ++i) {
    const Stopwatch watch;
    tokenizer.encode_batch(texts, {}, threads);
    best = std::max(best, static_cast<double>(bytes) / 1e6 / watch.seconds());
  }
  return best;
}

void bench(const TokenizeArguments& arguments, const CommonOptions& common) {
  const auto tokenizer = Tokenizer::load(arguments.model);
  std::vector<std::string> lines;
  size_t bytes = 0;
  for_each_line(arguments.files, [&](const std::string& line, const std::string&) {
    bytes += line.size() + 1;
    lines.push_back(line);
  });
  if (lines.empty()) throw Error(ErrorCode::kData, "--bench", "there is no text to measure on");
  std::vector<TextPair> texts;
  for (const std::string& line : lines) texts.push_back({line, std::nullopt});
  size_t tokens = 0;
  for (const Encoding& encoding : tokenizer->encode_batch(texts)) tokens += encoding.ids.size();
  const int all = common.threads > 0 ? static_cast<int>(common.threads) : machine_threads();
  const double one = speed(*tokenizer, texts, bytes, 1);
  const double many = speed(*tokenizer, texts, bytes, all);
  if (common.json) {
    print_json({{"bytes", bytes},
                {"lines", lines.size()},
                {"tokens", tokens},
                {"mb_per_second", one},
                {"threads", all},
                {"mb_per_second_all_threads", many}});
    return;
  }
  std::cout << fmt::format(
      "{} lines, {:.1f} MB, {} tokens\n  1 thread   {:6.1f} MB/s\n  {} threads  {:6.1f} MB/s\n", lines.size(),
      static_cast<double>(bytes) / 1e6, tokens, one, all, many);
}

void train_vocabulary(const TokenizeArguments& arguments, const CommonOptions& common) {
  if (arguments.files.empty() || arguments.output.empty()) {
    throw Error(ErrorCode::kUsage, "tokenize --train", "expected text files and --output DIR");
  }
  std::error_code code;
  const std::filesystem::path output = arguments.output;
  if (std::filesystem::exists(output / "tokenizer.json", code) && !arguments.overwrite) {
    throw Error(ErrorCode::kIo, (output / "tokenizer.json").string(), "exists already",
                "pass --overwrite to replace it");
  }
  const std::vector<std::filesystem::path> files(arguments.files.begin(), arguments.files.end());
  const auto vocab_size = static_cast<size_t>(arguments.vocab_size);
  if (arguments.type == "bpe") {
    BytePairTrainerOptions options;
    options.vocab_size = vocab_size;
    train_byte_pair(options, files, output);
  } else {
    WordPieceTrainerOptions options;
    options.vocab_size = vocab_size;
    options.lowercase = !arguments.cased;
    train_wordpiece(options, files, output);
  }
  const size_t size = Tokenizer::load(output)->vocab_size();
  if (common.json) {
    print_json({{"output", arguments.output}, {"vocab_size", size}});
  } else {
    std::cout << fmt::format("wrote {} with {} tokens\n", arguments.output, size);
  }
}

void tokenize(const TokenizeArguments& arguments, const CommonOptions& common) {
  if (arguments.train) return train_vocabulary(arguments, common);
  if (arguments.model.empty()) {
    throw Error(ErrorCode::kUsage, "tokenize", "expected --model DIR",
                "the directory that holds the tokenizer");
  }
  if (arguments.bench) return bench(arguments, common);
  if (arguments.decode) return decode(arguments, common);
  encode(arguments, common);
}

}  // namespace

Command add_tokenize(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("tokenize", "Encode, decode, measure or train a tokenizer");
  auto arguments = std::make_shared<TokenizeArguments>();
  command->add_option("files", arguments->files, "Text files; default: standard input")->type_name("FILE...");
  command->add_option("--model", arguments->model, "Model directory, tokenizer file or GGUF file")
      ->type_name("PATH");
  command->add_flag("--ids", arguments->ids, "Write ids in place of tokens");
  auto* pair = command->add_flag("--pair", arguments->pair, "A line is two texts with a tab between them");
  auto* decode = command->add_flag("--decode", arguments->decode, "Read ids, write text");
  auto* bench = command->add_flag("--bench", arguments->bench, "Measure MB/s, with one thread and with all");
  auto* train = command->add_flag("--train", arguments->train, "Learn a vocabulary from the files");
  decode->excludes(bench)->excludes(train);
  bench->excludes(train);
  pair->excludes(decode)->excludes(bench)->excludes(train);
  auto* offsets =
      command->add_option("--offsets", arguments->offsets, "Write where in its text each token stands")
          ->check(CLI::IsMember({"bytes", "characters"}));
  auto* length =
      command->add_option("--max-length", arguments->max_length, "Longest result, special tokens counted")
          ->check(positive_number())
          ->type_name("N");
  auto* stride = command
                     ->add_option("--stride", arguments->stride,
                                  "Write what --max-length cuts off too, in windows that overlap by N tokens")
                     ->check(non_negative_number())
                     ->type_name("N")
                     ->needs(length);
  command->add_option("--truncate", arguments->truncate, "Which text of a pair gives way")
      ->check(CLI::IsMember({"longest_first", "only_first", "only_second"}))
      ->needs(length)
      ->capture_default_str();
  for (auto* option : {offsets, length, stride}) option->excludes(decode)->excludes(bench)->excludes(train);
  command->add_option("--output", arguments->output, "--train: directory to write")->type_name("DIR");
  command->add_option("--vocab-size", arguments->vocab_size, "--train: entries in all")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--type", arguments->type, "--train: wordpiece (encoders) or bpe (decoders)")
      ->check(CLI::IsMember({"wordpiece", "bpe"}))
      ->capture_default_str();
  command->add_flag("--cased", arguments->cased, "--train: keep case and accents, which bpe always does");
  command->add_flag("--overwrite", arguments->overwrite, "--train: replace a tokenizer.json");
  add_common(*command, common);
  return {command, [arguments, &common] { tokenize(*arguments, common); }};
}

}  // namespace msplora
