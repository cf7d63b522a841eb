#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/data/batching.h"
#include "msplora/data/options.h"
#include "msplora/data/reader.h"

namespace msplora {

/// What the label column of a task holds; kConversation: rows are no table but instructions
/// (data/conversations.h).
enum class LabelKind { kNone, kClass, kNumber, kConversation };

/// One example as it stands in the file.
struct Example {
  std::string text;
  std::string text_pair;
  bool has_pair = false;
  std::string label;  // as written; "" when the data set has no labels
  std::string group;  // as written; "" when no group column is read
  int64_t line = 0;   // line of its file, from 1
  /// With TableSpec::keep_fields: all fields as written, in the order of the columns; of a JSONL file the
  /// line.
  std::vector<std::string> fields = {};
  uint32_t file = 0;  // number of its file in the data set
};

/// Bytes of a row at most, about a million tokens: more is no example, and encoding it takes longer than
/// anybody waits for an answer.
inline constexpr size_t kMostRowBytes = size_t{4} << 20;
/// Throws Error{kData} for a longer row. `where` names file and line.
void check_row_size(size_t bytes, const std::string& where);

/// Examples of one file or several, with what was decided while reading them.
class Dataset {
 public:
  Dataset() = default;
  /// Throws Error{kData} for a row that is too long (check_row_size).
  Dataset(std::filesystem::path path, std::vector<Example> examples, bool has_labels);

  size_t size() const noexcept { return examples_.size(); }
  bool empty() const noexcept { return examples_.empty(); }
  const Example& operator[](size_t index) const { return examples_[index]; }
  const std::vector<Example>& examples() const noexcept { return examples_; }
  /// Of the first file.
  const std::filesystem::path& path() const noexcept { return paths_.front(); }
  /// How often its examples come up in an epoch; without groups where that is once.
  DrawWeights draw_weights() const;
  /// The examples of all parts, which are those of `files`. Throws Error{kData} where some have labels and
  /// others not.
  static Dataset joined(std::vector<Dataset> parts, const DataFiles& files);
  bool has_labels() const noexcept { return has_labels_; }

  /// Column names in file order ("0", "1", ... without a header).
  const std::vector<std::string>& columns() const noexcept { return columns_; }
  /// Decisions a person may want to check, such as whether the file has a header, and why.
  const std::vector<std::string>& notes() const noexcept { return notes_; }
  void set_columns(std::vector<std::string> columns) { columns_ = std::move(columns); }
  /// Between the fields of its file; 0 for JSONL and for data that comes from no table.
  char delimiter() const noexcept { return delimiter_; }
  void set_delimiter(char delimiter) { delimiter_ = delimiter; }
  /// What is to be said of a delimiter that was recognised and is not the usual one; "" for nothing. It is
  /// one of the notes.
  const std::string& delimiter_note() const noexcept { return delimiter_note_; }
  void set_delimiter_note(std::string note) { delimiter_note_ = std::move(note); }
  void add_note(std::string note) { notes_.push_back(std::move(note)); }

  /// How often each label occurs, by name.
  std::map<std::string, int64_t> label_counts() const;
  /// The examples at `indices`, in that order; notes and columns are kept.
  Dataset subset(const std::vector<uint32_t>& indices) const;
  /// "file:line" of an example.
  std::string where(size_t index) const {
    return file_and_line(paths_[examples_[index].file], examples_[index].line);
  }

 private:
  std::vector<std::filesystem::path> paths_ = {{}};
  std::vector<double> weights_ = {1.0};  // of the files
  std::vector<Example> examples_;
  bool has_labels_ = false;
  std::vector<std::string> columns_;
  std::vector<std::string> notes_;
  char delimiter_ = 0;
  std::string delimiter_note_;
};

/// Which columns of a file to read, by name or by position counted from 0.
struct TableSpec {
  FileFormat format = FileFormat::kTsv;
  std::string header = "auto";     // auto, yes, no
  std::string delimiter = "auto";  // as RecordReader::open takes it
  std::string text;
  std::optional<std::string> text_pair;
  std::string label;  // empty: no labels are read
  std::optional<std::string> group;
  bool keep_fields = false;     // Example::fields is filled
  bool label_optional = false;  // a missing label column gives a data set without labels instead of an error
  bool label_ignored = false;   // the label column may be empty here and there; the data set has no labels
};

/// The columns of `config` in a file of its form (resolve_format); `group` is left out, and so is the label
/// of a task without labels.
TableSpec table_spec(const DataConfig& config, const std::filesystem::path& file,
                     LabelKind labels = LabelKind::kClass);

/// Reads a file. Throws Error{kData} for a missing column (listing those found and the nearest), a row with
/// the wrong number of fields, an empty label or a file without examples; Error{kIo} when it cannot be read.
Dataset read_table(const std::filesystem::path& path, const TableSpec& spec);

/// The rows of a file: of a table as `config` says, or instructions (LabelKind::kConversation). Throws as
/// read_table and read_conversations.
Dataset read_rows(const DataConfig& config, LabelKind labels, const std::filesystem::path& file,
                  bool label_optional = false, bool with_group = false);

/// The same for all files, as one data set; several files or weights are said in a note.
Dataset read_rows(const DataConfig& config, LabelKind labels, const DataFiles& files,
                  bool label_optional = false, bool with_group = false);

/// The number in the label of example `index`. Throws Error{kData} with file and line when it is not a finite
/// number.
double regression_target(const Dataset& data, size_t index);

/// Splits off round(fraction * n) examples, at least one and leaving at least one, chosen by seed.
/// Both parts keep the order of the file. Returns {rest, split off}. `by_class` gives each class its share of
/// them (largest remainders, then by name) and leaves at least one example of each class in the rest; with
/// many rare classes fewer are then split off. Throws Error{kData} where no class has two examples.
std::pair<Dataset, Dataset> split_dataset(const Dataset& data, double fraction, uint64_t seed,
                                          bool by_class = false);

/// The files of one task, read.
struct TaskData {
  struct Named {
    std::string name;  // "validation", "test"; of MNLI "validation_matched", "validation_mismatched", ...
    Dataset data;
  };
  Dataset train;
  std::vector<Named> validation;
  std::vector<Named> test;
  std::vector<std::string> labels;  // fixed order of the classes, or empty when the data decides
  /// Examples of each class in the whole training file, whatever is set aside of it; empty without classes.
  std::map<std::string, int64_t> class_counts;
  std::vector<std::string> notes;  // what a person may want to check (data/notes.h)
  /// Of the benchmark (metrics/metrics.h), the first chooses the best model; empty: those of the task.
  std::vector<std::string> metrics;
};

/// Which parts of the data to read.
struct TaskParts {
  bool train = true;
  bool validation = true;
  bool test = false;
};

/// Reads the parts of a task that the configuration names; a part that is asked for without being configured
/// stays empty, except train, which must be there. With a fraction and no validation file, the validation
/// part is split off train by `seed`, class by class. All configuration problems are thrown as one
/// Error{kConfig}.
TaskData load_task_data(const DataConfig& config, LabelKind labels, uint64_t seed,
                        const TaskParts& parts = {});

}  // namespace msplora
