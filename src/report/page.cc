#include "msplora/report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "msplora/report/svg.h"
#include "report/canvas.h"
#include "report/legend.h"
#include "report/style.h"
#include "report/text.h"

namespace msplora::report {
namespace {

/// What a page leaves out to keep to its bounds.
struct Room {
  Detail detail;
  size_t table_cells = SIZE_MAX;  // of the tables of one figure
};

/// Whether a cell stands at the right: nothing, or a number, perhaps with a sign or "%".
bool is_numeric(std::string_view cell) {
  if (cell.empty() || cell == "–") return true;
  for (const std::string_view sign : {"−", "-", "+"}) {
    if (cell.substr(0, sign.size()) == sign) cell.remove_prefix(sign.size());
  }
  return !cell.empty() && cell.front() >= '0' && cell.front() <= '9' &&
         std::none_of(cell.begin(), cell.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '/' || c == ':';
         });
}

/// Text of people: `parts` between back quotes as code.
std::string prose(std::string_view text) {
  std::string rest = escaped(text), out;
  while (true) {
    const size_t begin = rest.find('`');
    const size_t end = begin == std::string::npos ? begin : rest.find('`', begin + 1);
    if (end == std::string::npos) return out + rest;
    out += rest.substr(0, begin) + "<code>" + rest.substr(begin + 1, end - begin - 1) + "</code>";
    rest.erase(0, end + 1);
  }
}

class PageWriter {
 public:
  PageWriter(const Page& page, const Room& room) : page_(page), room_(room) {}

  std::string write() {
    out_ =
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'; "
        "img-src data:\"/>"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
        "<meta name=\"color-scheme\" content=\"light dark\"/>";
    out_ +=
        fmt::format("<title>{}</title><style>{}</style></head>\n<body>", escaped(page_.title), page_style());
    out_ += fmt::format("<svg class=\"defs\" aria-hidden=\"true\">{}</svg><main>\n", pattern_definitions());
    head();
    for (size_t i = 0; i < page_.sections.size(); ++i) section(page_.sections[i], i);
    if (!page_.footer.empty()) out_ += fmt::format("<footer><p>{}</p></footer>", prose(page_.footer));
    return out_ + "</main></body></html>\n";
  }

  size_t elements() const { return elements_; }

 private:
  void head() {
    out_ += fmt::format("<header><h1>{}</h1>", escaped(page_.title));
    if (!page_.subtitle.empty()) out_ += fmt::format("<p class=\"sub\">{}</p>", escaped(page_.subtitle));
    if (!page_.facts.empty()) {
      out_ += "<dl class=\"facts\">";
      for (const auto& [name, value] : page_.facts) {
        out_ += fmt::format("<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
      }
      out_ += "</dl>";
    }
    out_ += "</header>";
    if (page_.sections.size() < 2) return;
    out_ += "\n<nav aria-label=\"Contents\"><ol>";
    for (size_t i = 0; i < page_.sections.size(); ++i) {
      out_ += fmt::format("<li><a href=\"#s{}\">{}</a></li>", i + 1, escaped(page_.sections[i].heading));
    }
    out_ += "</ol></nav>";
  }

  void section(const Section& section, size_t index) {
    out_ += fmt::format("\n<section><h2 id=\"s{}\">{}</h2>", index + 1, escaped(section.heading));
    for (const Block& block : section.blocks) std::visit([&](const auto& data) { put(data); }, block);
    out_ += "</section>\n";
  }

  void put(const Paragraph& paragraph) { out_ += fmt::format("<p>{}</p>", prose(paragraph.text)); }

  void put(const List& list) {
    if (list.items.empty()) return;
    out_ += list.strong ? "<ul class=\"strong\">" : "<ul>";
    for (const std::string& item : list.items) out_ += fmt::format("<li>{}</li>", prose(item));
    out_ += "</ul>";
  }

  void put(const Code& code) {
    out_ += "<pre tabindex=\"0\">";
    for (size_t at = 0; at <= code.text.size();) {  // lines stay lines
      const size_t end = std::min(code.text.find('\n', at), code.text.size());
      out_ += escaped(std::string_view(code.text).substr(at, end - at));
      if (end < code.text.size()) out_ += '\n';
      at = end + 1;
    }
    out_ += "</pre>";
  }

  void put(const Table& table) {
    if (!table.open) out_ += fmt::format("<details><summary>{}</summary>", escaped(table.caption));
    rows_of(table);
    if (!table.open) out_ += "</details>";
  }

  void rows_of(const Table& table) {
    std::vector<bool> numeric(table.columns.size(), !table.rows.empty());
    std::vector<bool> wordy(table.columns.size(), false);
    for (const auto& row : table.rows) {
      for (size_t i = 0; i < std::min(row.size(), numeric.size()); ++i) {
        numeric[i] = numeric[i] && is_numeric(row[i]);
        wordy[i] = wordy[i] || text_width(row[i]) > 40 * kTextSize * 0.62;
      }
    }
    const auto cells = [&](const std::vector<std::string>& row, const char* tag) {
      out_ += "<tr>";
      for (size_t i = 0; i < table.columns.size(); ++i) {
        const char* kind = numeric[i] ? " class=\"num\"" : wordy[i] ? " class=\"t\"" : "";
        out_ += fmt::format("<{0}{1}>{2}</{0}>", tag, kind, i < row.size() ? escaped(row[i]) : "");
      }
      out_ += "</tr>";
    };
    out_ += "<div class=\"wide\" tabindex=\"0\"><table>";
    if (!table.caption.empty()) out_ += fmt::format("<caption>{}</caption>", escaped(table.caption));
    out_ += "<thead>";
    cells(table.columns, "th");
    out_ += "</thead><tbody>";
    for (const auto& row : table.rows) cells(row, "td");
    out_ += "</tbody></table></div>";
  }

  void put(const Figure& figure) {
    const size_t number = ++figures_;
    double widest = 0;
    for (const Plot& plot : figure.plots) {
      widest = std::max(widest, std::visit([](const auto& data) { return data.width; }, plot));
    }
    const int kind = widest <= kSmallWidth * 1.2 ? 1 : widest <= kUsualWidth * 1.2 ? 2 : 3;
    const bool one = figure.plots.size() == 1 && kind == 2;
    out_ += fmt::format("\n<figure id=\"f{}\"{}>", number, one ? " class=\"one\"" : "");
    if (!figure.title.empty()) out_ += fmt::format("<h3>{}</h3>", escaped(figure.title));
    const std::string key = legend_html(shared_legend(figure.plots));
    elements_ += count_elements(key);
    out_ += key + fmt::format("<div class=\"plots w{}\"{}>", kind, kind == 3 ? " tabindex=\"0\"" : "");
    for (size_t i = 0; i < figure.plots.size(); ++i) {
      const std::string svg =
          inline_svg(figure.plots[i], fmt::format("f{}-p{}", number, i + 1), room_.detail);
      elements_ += count_elements(svg);
      out_ += "\n" + svg;
    }
    out_ += "</div>";
    caption(figure.caption);
    numbers(figure);
    out_ += "</figure>\n";
  }

  void caption(const Caption& caption) {
    out_ += "<figcaption>";
    if (!caption.shows.empty()) out_ += fmt::format("<p>{}</p>", prose(caption.shows));
    if (!caption.n.empty() || !caption.definition.empty()) {
      out_ += "<dl>";
      if (!caption.n.empty()) out_ += fmt::format("<dt>n</dt><dd>{}</dd>", prose(caption.n));
      if (!caption.definition.empty())
        out_ += fmt::format("<dt>Definition</dt><dd>{}</dd>", prose(caption.definition));
      out_ += "</dl>";
    }
    if (!caption.against.empty()) {
      out_ += fmt::format("<p class=\"against\"><b>What would count against it:</b> {}</p>",
                          prose(caption.against));
    }
    out_ += "</figcaption>";
  }

  void numbers(const Figure& figure) {
    std::vector<Table> tables;
    size_t cells = 0;
    for (const Plot& plot : figure.plots) {
      tables.push_back(table_of(plot));
      for (const auto& row : tables.back().rows) cells += row.size();
    }
    if (cells > room_.table_cells) {
      out_ += fmt::format("<p class=\"sub\">{} numbers are too many for this page.{}</p>", cells,
                          page_.numbers_elsewhere.empty() ? "" : " " + prose(page_.numbers_elsewhere));
      return;
    }
    out_ += "<details><summary>The numbers</summary>";
    for (const Table& table : tables) rows_of(table);
    out_ += "</details>";
  }

  const Page& page_;
  const Room& room_;
  std::string out_;
  size_t figures_ = 0, elements_ = 0;
};

}  // namespace

std::string to_html(const Page& page) {
  // From everything to what leaves room for very much: the first that keeps to the bounds.
  const std::vector<Room> rooms = {{{32 * 32, true, 16}, SIZE_MAX}, {{24 * 24, true, 10}, SIZE_MAX},
                                   {{24 * 24, false, 10}, 20'000},  {{12 * 12, false, 4}, 4'000},
                                   {{8 * 8, false, 2}, 1'000},      {{0, false, 2}, 0}};
  std::string html;
  for (const Room& room : rooms) {
    PageWriter writer(page, room);
    html = writer.write();
    if (html.size() <= kPageBytes && writer.elements() <= kPageElements) break;
  }
  return html;
}

}  // namespace msplora::report
