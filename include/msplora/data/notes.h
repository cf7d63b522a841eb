#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "msplora/data/dataset.h"

namespace msplora {

/// What is worth a look among the classes of a training file: fewer than 5 examples, names that differ only
/// in case or spaces or are the same number, numbers that may be amounts, names that look like several labels
/// in one, a class for nearly every example. `are_given`:
/// the classes were listed by hand. Throws Error{kData} where more than 20 fractional numbers would become
/// classes.
std::vector<std::string> class_notes(const std::filesystem::path& file,
                                     const std::map<std::string, int64_t>& counts, bool are_given);

/// And among the texts of a task: equal ones with different labels in the training data, and examples of the
/// other parts whose text is in the training data too (white space around texts does not count).
std::vector<std::string> text_notes(const TaskData& data);

}  // namespace msplora
