#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "msplora/report/plots.h"

namespace msplora::report {

/// How much of a plot is drawn, from the most to what a page of very many plots can hold.
struct Detail {
  size_t cells = 32 * 32;  // a heat map with more is one picture in PNG
  bool titles = true;      // values of single points when the mouse rests there
  size_t markers = 16;     // on one line at most
};

/// An <svg> for a page that has the style of page.h. `id` is unique on the page: letters, digits, hyphens.
std::string inline_svg(const Plot& plot, const std::string& id, const Detail& detail = {});

/// A complete SVG file with a background of its own, in the light or dark colours that the reader's system
/// asks for.
std::string svg_file(const Plot& plot);

/// Several plots in one file, `columns` in a row, with a legend for all where the plots have none of their
/// own.
std::string svg_file(const std::vector<Plot>& plots, size_t columns, const std::string& title);

/// The number of elements of an SVG.
size_t count_elements(const std::string& svg);

}  // namespace msplora::report
