#include "report/style.h"

#include <fmt/format.h>

#include <string_view>

#include "report/colours.h"

namespace msplora::report {
namespace {

constexpr std::string_view kFonts =
    "system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",\"Noto Sans\",\"DejaVu Sans\",sans-serif";

// One letter a class: a axis, g grid, n minor grid, r reference, x frame, l line, k marker, b band, e error
// bar, w leader of a name, q leader without colour, u Pareto front; texts: h heading, m muted, i in a cell, o
// over lines.
constexpr std::string_view kPlotRules =
    ".plot text{font-size:12px;fill:var(--fg);font-variant-numeric:tabular-nums}"
    ".plot .h{font-size:13px;font-weight:600}.plot .m{fill:var(--muted)}.plot .i{font-size:11.5px}.plot "
    ".ink0{fill:#000}.plot .ink1{fill:#fff}"
    ".plot .o{paint-order:stroke;stroke:var(--bg);stroke-width:3px;stroke-linejoin:round}"
    ".plot .a{fill:none;stroke:var(--axis)}.plot .g{fill:none;stroke:var(--grid)}"
    ".plot .n{fill:none;stroke:var(--grid);stroke-width:.5}"
    ".plot .r{fill:none;stroke:var(--muted);stroke-width:1.3;stroke-dasharray:1.5 3.5;stroke-linecap:round}"
    ".plot .x{stroke:var(--axis);stroke-width:.8}.plot rect.x:not([fill]){fill:none}"
    ".plot .l{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}"
    ".plot .k{stroke:var(--bg);stroke-width:.8}.plot .b{opacity:.2}"
    ".plot .e{fill:none;stroke-width:1.4}.plot .w{fill:none;stroke-width:1;opacity:.75}"
    ".plot .q{fill:none;stroke:var(--axis);stroke-width:1}"
    ".plot .u{fill:none;stroke:var(--axis);stroke-width:1.4;stroke-dasharray:6 3}";

constexpr std::string_view kDashes[kStyles] = {"none", "none", "7 3", "2 3", "9 3 2 3", "4 2", "10 4", "1 3"};

std::string series_rules() {
  std::string rules;
  for (int i = 0; i < kStyles; ++i) {
    rules +=
        fmt::format(".plot .c{0}{{stroke:var(--s{0})}}.plot .f{0}{{fill:var(--s{0})}}.plot .p{0}{{fill:{1}}}",
                    i, i >= 2 && i <= 6 ? fmt::format("url(#hatch{})", i) : "none");
    if (kDashes[i] != "none") rules += fmt::format(".plot .d{}{{stroke-dasharray:{}}}", i, kDashes[i]);
  }
  // What is compared with is dashed in another way than any style, and its line thinner.
  return rules +
         ".plot .dx{stroke-dasharray:5 "
         "4;stroke-width:1.5}.hatch{fill:none;stroke:var(--bg);stroke-width:1.3;opacity:.6}";
}

std::string properties(const Scheme& scheme) {
  std::string out;
  for (const auto& [name, value] : scheme) out += fmt::format("{}:#{};", name, value);
  return out;
}

std::string with_colours(std::string rules, const Scheme& scheme) {
  for (const auto& [name, value] : scheme) {
    const std::string use = fmt::format("var({})", name), colour = fmt::format("#{}", value);
    for (auto at = rules.find(use); at != std::string::npos; at = rules.find(use, at)) {
      rules.replace(at, use.size(), colour);
    }
  }
  return rules;
}

constexpr std::string_view kPageRules =
    "*{box-sizing:border-box}"
    "html{-webkit-text-size-adjust:100%;text-size-adjust:100%}"
    "body{margin:0;background:var(--bg);color:var(--fg);line-height:1.55;overflow-wrap:break-word}"
    "main{max-width:68rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}"
    "h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 .35rem;font-weight:700}"
    "h2{font-size:1.35rem;line-height:1.3;letter-spacing:-.01em;margin:3.2rem 0 .8rem;padding-top:1.1rem;"
    "border-top:1px solid var(--line);font-weight:650}"
    "h3{font-size:1.02rem;line-height:1.4;margin:0 0 .7rem;font-weight:650}"
    "p,ul,ol,dl{margin:.6rem 0}p,li{max-width:74ch}.sub{color:var(--muted);font-size:1.05rem;margin:0 0 "
    "1.4rem}"
    "ul{padding-left:1.25rem}li{margin:.3rem 0}"
    ".facts{display:grid;grid-template-columns:fit-content(35%) minmax(0,1fr);gap:.2rem 1.1rem;margin:1.2rem "
    "0;"
    "font-size:.92rem}.facts dt{color:var(--muted)}.facts dd{margin:0}"
    ".strong{list-style:none;padding:1rem 1.25rem;margin:1.2rem 0;background:var(--card);"
    "border-left:4px solid var(--accent);border-radius:4px}.strong li{margin:.45rem 0}"
    "nav{font-size:.95rem;margin:1.4rem 0}nav "
    "ol{list-style:none;padding:0;margin:0;display:flex;flex-wrap:wrap;"
    "gap:.35rem 1.3rem}nav li{margin:0}a{color:var(--accent);text-underline-offset:.15em}"
    "a:focus-visible,summary:focus-visible,.wide:focus-visible{outline:2px solid "
    "var(--accent);outline-offset:2px}"
    "code,pre{font-family:ui-monospace,\"SF Mono\",Menlo,Consolas,\"DejaVu Sans "
    "Mono\",monospace;font-size:.88em}"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:4px;padding:.7rem "
    ".9rem;overflow-x:auto}"
    "figure{margin:1.8rem 0 2.6rem}"
    ".plots{display:grid;gap:1.1rem 1.4rem;align-items:start}"
    ".w1{grid-template-columns:repeat(auto-fill,minmax(min(100%,9.4rem),1fr));gap:.9rem .7rem}"
    ".w2{grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}"
    ".w3{grid-template-columns:minmax(30.5rem,44rem);overflow-x:auto}"
    ".plots>svg{display:block;width:100%;height:auto}.w2>svg{max-width:29rem}.w1>svg{max-width:16rem}"
    ".one{display:grid;grid-template-columns:minmax(0,29rem) minmax(0,1fr);gap:0 2.4rem;align-items:start}"
    ".one>h3,.one>details{grid-column:1/-1}.one>.plots{grid-template-columns:minmax(0,1fr)}"
    ".one>figcaption{margin-top:0}"
    ".key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0;margin:0 0 "
    ".8rem;font-size:.88rem}"
    ".key li{display:flex;align-items:center;gap:.45rem;margin:0}.key svg{width:26px;height:14px;flex:none}"
    "figcaption{margin-top:.9rem;font-size:.93rem;max-width:74ch}figcaption p{margin:0 0 .5rem}"
    "figcaption dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.25rem "
    ".9rem;margin:.5rem 0 0}"
    "figcaption dt{color:var(--muted)}figcaption dd{margin:0}"
    ".against{border-left:3px solid var(--s2);padding-left:.7rem;margin:.7rem 0 0}"
    "details{margin:.8rem "
    "0;font-size:.9rem}summary{cursor:pointer;color:var(--accent);width:max-content;max-width:100%}"
    ".wide{overflow-x:auto;margin:.7rem 0;max-width:100%}"
    "table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;line-height:1.4}"
    "caption{text-align:left;font-weight:600;padding:.2rem 0 .35rem}"
    "th,td{padding:.24rem .75rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}"
    "th:first-child,td:first-child{padding-left:0}th{color:var(--muted);font-weight:600;vertical-align:"
    "bottom}"
    "td.t{white-space:normal;min-width:9rem}.num{text-align:right}"
    "footer{margin-top:3rem;padding-top:1rem;border-top:1px solid "
    "var(--line);color:var(--muted);font-size:.88rem}"
    ".defs{position:absolute;width:0;height:0}"
    "@media(max-width:52rem){.one{display:block}.one>figcaption{margin-top:.9rem}}"
    "@media(max-width:30rem){main{padding:1.4rem .85rem "
    "3rem}h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.4rem}"
    ".w1{grid-template-columns:repeat(2,minmax(0,1fr));gap:.9rem .6rem}figcaption dl{display:block}"
    "figcaption dt{margin-top:.4rem}.facts{display:block}.facts dd{margin:0 0 .4rem}nav "
    "ol{display:block;columns:2}}"
    "@media print{main{max-width:none;padding:0}body{font-size:10.5pt}nav,details:not([open]){display:none}"
    "figure,table,.strong,pre{break-inside:avoid}h2,h3{break-after:avoid}h2{margin-top:1.6rem}"
    ".w1{grid-template-columns:repeat(4,minmax(0,1fr))}.w3{grid-template-columns:minmax(0,1fr);overflow:"
    "visible}.w2{grid-template-columns:repeat(2,minmax(0,1fr))}"
    ".one>.plots{grid-template-columns:minmax(0,1fr)}.one{grid-template-columns:minmax(0,3fr) "
    "minmax(0,2fr);display:grid}"
    "a{color:inherit;text-decoration:none}.wide{overflow:visible}td,th{white-space:normal}td.num{white-space:"
    "nowrap}.plots>svg{break-inside:avoid}@page{margin:16mm "
    "14mm}}";

}  // namespace

std::string plot_style() {
  return std::string(kPlotRules) + series_rules();
}

std::string file_style() {
  const std::string rules = ".plot{font-family:" + std::string(kFonts) +
                            "}.plot .ground{fill:var(--bg);stroke:var(--line)}" + plot_style();
  return with_colours(rules, light_scheme()) + "@media(prefers-color-scheme:dark){" +
         with_colours(rules, dark_scheme()) + "}";
}

std::string page_style() {
  return ":root{color-scheme:light dark;" + properties(light_scheme()) +
         "}@media screen and (prefers-color-scheme:dark){:root{" + properties(dark_scheme()) +
         "}}@media print{:root{color-scheme:light}}body{font-family:" + std::string(kFonts) +
         ";font-size:16px}" + std::string(kPageRules) + plot_style();
}

std::string pattern_definitions() {
  constexpr std::string_view kPaths[] = {"M-1 7L7-1M-1 1L1-1M5 7L7 5", "M1.5 3h.1M4.5 6h.1",
                                         "M-1-1L7 7M5-1L7 1M-1 5L1 7", "M3 0V6", "M0 3H6"};
  std::string out = "<defs>";
  for (int i = 2; i <= 6; ++i) {
    out += fmt::format(
        "<pattern id=\"hatch{}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\"><path "
        "class=\"hatch\" d=\"{}\"{}/></pattern>",
        i, kPaths[i - 2], i == 3 ? " stroke-linecap=\"round\"" : "");
  }
  return out + "</defs>";
}

}  // namespace msplora::report
