#pragma once

#include <string>

namespace msplora::report {

/// Rules for what is inside of plots, with colours as custom properties.
std::string plot_style();
/// The same for a file of its own: colours in place, those of the dark scheme for systems that ask for it.
/// Programs that know neither custom properties nor schemes draw it in light colours.
std::string file_style();
/// The whole style of a page, plots included.
std::string page_style();
/// The patterns that tell filled areas apart without their colours, as <defs>.
std::string pattern_definitions();

}  // namespace msplora::report
