#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "msplora/report/plots.h"

namespace msplora::report {

/// Texts of paragraphs, lists, captions and the footer may have `code` between back quotes.

struct Paragraph {
  std::string text;
};

struct List {
  std::vector<std::string> items;
  bool strong = false;  // set apart: what the page comes to
};

/// What is to be copied as it stands.
struct Code {
  std::string text;
};

/// Cells that are numbers stand at the right; a column is one of numbers where all of its cells are.
struct Table {
  std::string caption;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
  bool open = true;  // false: in <details>, which do not print
};

/// What stands below a figure. Empty parts are left out.
struct Caption {
  std::string shows;
  std::string n;           // of what, and how many
  std::string definition;  // how the numbers are computed
  std::string against;     // what would count against the claim
};

/// One or several plots with the numbers that they show as tables in <details>.
struct Figure {
  std::string title;
  std::vector<Plot> plots;
  Caption caption;
};

using Block = std::variant<Paragraph, List, Code, Table, Figure>;

struct Section {
  std::string heading;
  std::vector<Block> blocks;
};

struct Page {
  std::string title;
  std::string subtitle;
  std::vector<std::pair<std::string, std::string>> facts;  // what was looked at: name and value
  std::vector<Section> sections;
  std::string footer;
  std::string numbers_elsewhere;  // where numbers stand whose tables the page has no room for
};

/// Bounds that every page keeps to where its texts allow it.
inline constexpr size_t kPageBytes = 2'000'000, kPageElements = 40'000;

/// The page as one file: HTML that is well-formed as XML too, nothing loaded and nothing run. It follows the
/// reader's choice of light or dark, prints in light colours, and needs 360 pixels of width. Where it would
/// come out too large, plots are drawn with less detail, then tables of many numbers are left out.
std::string to_html(const Page& page);

/// The numbers of a plot, which a page shows below it.
Table table_of(const Plot& plot);

}  // namespace msplora::report
