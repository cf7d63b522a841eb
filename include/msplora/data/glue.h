#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/data/dataset.h"

namespace msplora {

/// What is known about a task of GLUE (Wang et al., ICLR 2019): files as its official download lays them out,
/// without quoting; fields by position.
struct GlueTask {
  /// Positions of the fields in one kind of file; -1: absent.
  struct Columns {
    int text = 0;
    int text_pair = -1;
    int label = -1;
    bool header = true;
  };
  struct File {
    std::string part;  // "validation", "validation_matched", ...
    std::string file;
  };

  std::string name;    // "sst2"
  std::string folder;  // "SST-2", the usual name of its folder
  LabelKind labels_are = LabelKind::kClass;
  Columns labelled;            // train and dev files
  Columns unlabelled;          // test files
  bool label_is_last = false;  // MNLI, whose train and dev files have different numbers of annotator columns
  std::vector<File> validation;
  std::vector<File> test;
  std::vector<std::string> labels;   // class order; empty for regression
  std::vector<std::string> metrics;  // of the benchmark; the first chooses the best model
};

/// Throws Error{kConfig} with the nearest name for an unknown task.
const GlueTask& glue_task(std::string_view name);
std::vector<std::string> glue_task_names();

/// Reads one file of a task. Rows that lack one of the needed fields, or have no gold label, are left out and
/// counted in a note: the published QQP files contain such rows.
Dataset read_glue_file(const GlueTask& task, const std::filesystem::path& path, bool labelled);

/// The training (or dev) part of MRPC from the original msr_paraphrase_train.txt and dev_ids.tsv, for folders
/// where these were not turned into train.tsv and dev.tsv.
Dataset read_mrpc_original(const std::filesystem::path& dir, bool dev);

/// Reads the parts of a task from its official folder.
TaskData load_glue(const GlueTask& task, const std::filesystem::path& dir, const TaskParts& parts);

}  // namespace msplora
