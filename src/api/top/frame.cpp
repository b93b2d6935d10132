#include "api/top/frame.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr std::string_view kUses = " .:-=+*#%@";  // From the least to the most.
constexpr int kBarWidth = 16;

// ---- Texts ----

struct Letter {
  std::string_view bytes;
  int columns = 1;
};

/// The first letter of a text that is not empty; what is no UTF-8, or moves the cursor, becomes one '?'.
Letter FirstLetter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0) >= 0x20 && byte(0) != 0x7f ? text.substr(0, 1) : "?", 1};
  const size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : byte(0) >= 0xc2 ? 2 : 0;
  if (length == 0 || byte(0) > 0xf4 || text.size() < length) return {"?", 1};
  uint32_t code = byte(0) & (0x7fU >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {"?", 1};
    code = code << 6 | (byte(i) & 0x3fU);
  }
  if (code < 0xa0) return {"?", 1};  // Control characters of eight bits.
  const bool combines = code >= 0x300 && code < 0x370;
  const bool wide = (code >= 0x1100 && code < 0x1160) || (code >= 0x2e80 && code < 0xa4d0) ||
                    (code >= 0xac00 && code < 0xd7a4) || (code >= 0xf900 && code < 0xfb00) ||
                    (code >= 0xfe30 && code < 0xfe70) || (code >= 0xff00 && code < 0xff61) ||
                    (code >= 0x1f300 && code < 0x1fb00) || code >= 0x20000;
  return {text.substr(0, length), combines ? 0 : wide ? 2 : 1};
}

void DropLetter(const Letter& letter, std::string_view& text) {
  text.remove_prefix(letter.bytes == "?" ? 1 : letter.bytes.size());
}

std::string Short(double value) {
  if (value >= 1e9) return fmt::format("{:.3g} G", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.3g} M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.3g} k", value / 1e3);
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}
std::string Short(const std::optional<double>& value) { return value.has_value() ? Short(*value) : "-"; }

std::string Seconds(const std::optional<double>& value) {
  if (!value.has_value()) return "-";
  if (*value < 1e-3) return fmt::format("{:.3g} us", *value * 1e6);
  if (*value < 1) return fmt::format("{:.3g} ms", *value * 1e3);
  return *value < 120 ? fmt::format("{:.3g} s", *value) : fmt::format("{:.0f} min", *value / 60);
}

std::string Percent(const std::optional<double>& share) {
  return share.has_value() ? fmt::format("{:.0f} %", 100 * *share) : "-";
}

/// "[|||||     ]": each part of `parts` with its own character, of `whole`.
std::string Bar(const std::vector<std::pair<double, char>>& parts, double whole, int width) {
  std::string bar;
  double sum = 0;
  for (const auto& [value, mark] : parts) {
    sum += std::max(value, 0.0);
    const double end = whole > 0 ? std::round(std::min(sum / whole, 1.0) * width) : 0;
    bar.append(static_cast<size_t>(std::max(end - static_cast<double>(bar.size()), 0.0)), mark);
  }
  bar.resize(static_cast<size_t>(width), ' ');
  return "[" + bar + "]";
}

// ---- Lines ----

/// A line as wide as the screen, filled from the left.
class Row {
 public:
  explicit Row(int width) : left_(width) {}

  /// In as many columns as it takes, or there are.
  Row& add(std::string_view text, TopStyle style = TopStyle::kPlain) {
    return column(text, ColumnsOf(text), style);
  }
  /// In exactly so many columns, and one that is blank.
  Row& cell(std::string_view text, int columns, TopStyle style = TopStyle::kPlain) {
    return column(text, columns, style).column("", 1, TopStyle::kPlain);
  }
  /// As cell(), at the right end of it.
  Row& number(std::string_view text, int columns, TopStyle style = TopStyle::kPlain) {
    column("", std::max(columns - ColumnsOf(text), 0), TopStyle::kPlain);
    return column(text, std::min(columns, ColumnsOf(text)), style).column("", 1, TopStyle::kPlain);
  }
  /// All that is left.
  Row& rest(std::string_view text, TopStyle style = TopStyle::kPlain) { return column(text, left_, style); }
  /// At the right edge of the screen, where there is room.
  Row& at_end(std::string_view text, TopStyle style = TopStyle::kPlain) {
    const int columns = ColumnsOf(text);
    if (columns >= left_) return *this;
    return column("", left_ - columns, TopStyle::kPlain).column(text, columns, style);
  }
  TopLine take() { return std::move(line_); }

 private:
  Row& column(std::string_view text, int columns, TopStyle style) {
    columns = std::clamp(columns, 0, left_);
    if (columns == 0) return *this;
    line_.emplace_back(FitColumns(text, columns), style);
    left_ -= columns;
    return *this;
  }

  TopLine line_;
  int left_;
};

TopStyle StyleOf(std::string_view status) {
  if (status == "up") return TopStyle::kGood;
  return status == "degraded" ? TopStyle::kWarning : TopStyle::kBad;
}

/// A page: what stands above its list, the head of the list, its rows.
struct Page {
  std::vector<TopLine> above;
  std::vector<TopLine> rows;
  std::string nothing;  ///< To be said where there are no rows.
};

TopLine TitleLine(const TopPicture& picture, const TopView& view) {
  Row row(view.width);
  row.add("shoal top", TopStyle::kStrong).add("  ");
  row.add(picture.model.empty() ? picture.url : picture.model).add("  ");
  if (!picture.status.empty()) {
    row.add(picture.status, StyleOf(picture.status));
    row.add(fmt::format(", session {}", picture.generation), TopStyle::kDim);
  }
  if (picture.seen_at > 0) row.at_end(view.clock(picture.seen_at), TopStyle::kDim);
  return row.take();
}

TopLine TabLine(const TopView& view) {
  constexpr std::array<std::string_view, kTopPages> kNames = {" 1 cluster ", " 2 links ", " 3 events ",
                                                              " 4 experts "};
  Row row(view.width);
  for (int i = 0; i < kTopPages; ++i) {
    row.add(kNames[static_cast<size_t>(i)],
            static_cast<int>(view.page) == i ? TopStyle::kChosen : TopStyle::kDim);
  }
  return row.at_end("q quits", TopStyle::kDim).take();
}

// ---- The cluster ----

TopLine LatencyLine(std::string_view name, const TopQuantiles& quantiles, const TopPicture& picture,
                    int width) {
  Row row(width);
  row.cell(name, 13, TopStyle::kDim);
  constexpr std::array<const char*, 3> kNames = {"p50", "p90", "p99"};
  for (size_t i = 0; i < kNames.size(); ++i)
    row.add(kNames[i], TopStyle::kDim).add(" ").cell(Seconds(quantiles[i]), 9, TopStyle::kStrong);
  row.add(picture.recent_s > 0 ? fmt::format(" last {:.0f} s", picture.recent_s) : " since the start",
          TopStyle::kDim);
  return row.take();
}

void AddFigures(const TopPicture& picture, int width, std::vector<TopLine>& lines) {
  Row rates(width);
  rates.cell("Tokens/s", 13, TopStyle::kDim).cell(Short(picture.tokens), 8, TopStyle::kStrong);
  rates.add("Steps/s ", TopStyle::kDim).cell(Short(picture.steps), 8, TopStyle::kStrong);
  rates.add("Streams ", TopStyle::kDim).cell(Short(picture.running), 5, TopStyle::kStrong);
  rates.add("Queue ", TopStyle::kDim).add(Short(picture.waiting), TopStyle::kStrong);
  if (picture.queue_wait_s > 0) rates.add(fmt::format(" (wait {})", Seconds(picture.queue_wait_s)));
  lines.push_back(rates.take());
  lines.push_back(LatencyLine("First token", picture.first_token, picture, width));
  lines.push_back(LatencyLine("Between", picture.between_tokens, picture, width));
  const double all = picture.blocks_used + picture.blocks_cached + picture.blocks_free;
  Row cache(width);
  cache.cell("Cache blocks", 13, TopStyle::kDim);
  cache.add(Bar({{picture.blocks_used, '|'}, {picture.blocks_cached, ':'}}, all, kBarWidth));
  cache.add(fmt::format(" {} used, {} cached, {} free", Short(picture.blocks_used),
                        Short(picture.blocks_cached), Short(picture.blocks_free)));
  if (picture.reused_share > 0)
    cache.add(fmt::format(", {} reuse", Percent(picture.reused_share)), TopStyle::kDim);
  lines.push_back(cache.take());
}

TopLine NodeHead(int width, int name_width) {
  Row row(width);
  row.cell("NODE", name_width, TopStyle::kDim).cell("STATE", 12, TopStyle::kDim);
  row.cell("LAYERS", 7, TopStyle::kDim).number("EXPERTS", 7, TopStyle::kDim);
  row.number("BUSY", 5, TopStyle::kDim).number("WAITS", 5, TopStyle::kDim);
  return row.rest("WEIGHTS OF MEMORY", TopStyle::kDim).take();
}

TopLine NodeRow(const TopNode& node, int width, int name_width) {
  Row row(width);
  row.cell(node.name, name_width);
  row.cell(node.state, 12,
           node.well ? (node.state == "up" ? TopStyle::kGood : TopStyle::kWarning) : TopStyle::kBad);
  row.cell(node.layers.empty() ? "-" : node.layers, 7);
  row.number(node.experts > 0 ? Short(static_cast<double>(node.experts)) : "-", 7);
  row.number(Percent(node.busy), 5, TopStyle::kStrong).number(Percent(node.wait), 5);
  if (node.memory_bytes > 0) {
    row.add(Bar({{static_cast<double>(node.weight_bytes), '|'}}, static_cast<double>(node.memory_bytes), 8));
    row.add(fmt::format(" {} of {}", FormatBytes(node.weight_bytes), FormatBytes(node.memory_bytes)));
  } else {
    row.add("-");
  }
  if (!node.machine.empty()) row.add("  ").add(node.machine, TopStyle::kDim);
  return row.take();
}

TopLine EventRow(const TopEvent& event, const TopView& view) {
  Row row(view.width);
  const bool bad =
      event.kind == "lost" || event.kind == "down" || event.kind == "failed" || event.kind == "out";
  row.cell(view.clock(event.at), 8, TopStyle::kDim);
  row.cell(event.kind, 9, bad ? TopStyle::kBad : TopStyle::kPlain);
  row.cell(event.node.empty() ? "-" : event.node, 14);
  return row.rest(event.text).take();
}

int NameWidth(const TopPicture& picture) {
  int width = 8;
  for (const TopNode& node : picture.nodes) width = std::max(width, ColumnsOf(node.name));
  return std::min(width, 18);
}

/// The nodes, and below them, as far as there is room, what happened last.
Page ClusterPage(const TopPicture& picture, const TopView& view) {
  Page page{.above = {}, .rows = {}, .nothing = "no nodes are known yet"};
  AddFigures(picture, view.width, page.above);
  page.above.push_back({});
  const int name_width = NameWidth(picture);
  page.above.push_back(NodeHead(view.width, name_width));
  for (const TopNode& node : picture.nodes) page.rows.push_back(NodeRow(node, view.width, name_width));
  if (!picture.events.empty()) {
    page.rows.push_back({});
    page.rows.push_back(Row(view.width).rest("WHAT HAPPENED", TopStyle::kDim).take());
  }
  for (const TopEvent& event : picture.events) page.rows.push_back(EventRow(event, view));
  return page;
}

// ---- The other pages ----

Page LinksPage(const TopPicture& picture, const TopView& view) {
  Page page{
      .above = {}, .rows = {}, .nothing = "no links were measured yet: there is one node, or none is up"};
  Row head(view.width);
  head.cell("BETWEEN", 18, TopStyle::kDim).cell("AND", 18, TopStyle::kDim);
  page.above.push_back(
      head.number("ROUND TRIP", 12, TopStyle::kDim).number("MB/S", 8, TopStyle::kDim).take());
  for (const TopLink& link : picture.links) {
    Row row(view.width);
    row.cell(link.a, 18).cell(link.b, 18).number(Seconds(1e-6 * link.rtt_us), 12);
    page.rows.push_back(row.number(link.mbs > 0 ? Short(link.mbs) : "-", 8).take());
  }
  return page;
}

Page EventsPage(const TopPicture& picture, const TopView& view) {
  Page page{.above = {}, .rows = {}, .nothing = "nothing happened so far"};
  Row head(view.width);
  head.cell("AT", 8, TopStyle::kDim).cell("WHAT", 9, TopStyle::kDim).cell("NODE", 14, TopStyle::kDim);
  page.above.push_back(head.take());
  for (const TopEvent& event : picture.events) page.rows.push_back(EventRow(event, view));
  return page;
}

/// A character for each of `columns` groups of neighbouring experts: how much its most used one is, against the layer's.
std::string UseStrip(const std::vector<double>& rows, int columns) {
  const double most = *std::ranges::max_element(rows);
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t shown = std::min<int64_t>(columns, count);
  std::string strip;
  for (int64_t i = 0; i < shown; ++i) {
    const auto begin = rows.begin() + i * count / shown;
    const double top = *std::max_element(begin, rows.begin() + (i + 1) * count / shown);
    const double share = most > 0 ? top / most : 0;
    strip += kUses[static_cast<size_t>(std::ceil(share * static_cast<double>(kUses.size() - 1)))];
  }
  return strip;
}

std::string HottestText(const std::vector<double>& rows) {
  double sum = 0;
  for (const double one : rows) sum += one;
  const auto hottest = std::ranges::max_element(rows);
  if (!(sum > 0)) return "not used yet";
  return fmt::format("{}: {}", hottest - rows.begin(), Percent(*hottest / sum));
}

Page ExpertsPage(const TopPicture& picture, const TopView& view) {
  Page page{.above = {}, .rows = {}, .nothing = "this model has no experts, or none was used yet"};
  Row head(view.width);
  head.number("LAYER", 5, TopStyle::kDim).cell("ON NODE", 14, TopStyle::kDim);
  head.number("LOCAL", 5, TopStyle::kDim).cell("MOST USED", 12, TopStyle::kDim);
  page.above.push_back(head.rest("USE, FROM THE FIRST EXPERT TO THE LAST", TopStyle::kDim).take());
  for (const TopExperts& layer : picture.experts) {
    if (layer.rows.empty()) continue;
    Row row(view.width);
    row.number(fmt::format("{}", layer.layer), 5).cell(layer.owner, 14);
    row.number(Percent(layer.local_share), 5).cell(HottestText(layer.rows), 12);
    page.rows.push_back(row.rest(UseStrip(layer.rows, std::max(view.width - 42, 1))).take());
  }
  return page;
}

Page PageOf(const TopPicture& picture, const TopView& view) {
  switch (view.page) {
    case TopPage::kCluster:
      return ClusterPage(picture, view);
    case TopPage::kLinks:
      return LinksPage(picture, view);
    case TopPage::kEvents:
      return EventsPage(picture, view);
    case TopPage::kExperts:
      return ExpertsPage(picture, view);
  }
  return {};
}

}  // namespace

int ColumnsOf(std::string_view text) {
  int columns = 0;
  while (!text.empty()) {
    const Letter letter = FirstLetter(text);
    columns += letter.columns;
    DropLetter(letter, text);
  }
  return columns;
}

std::string FitColumns(std::string_view text, int columns) {
  const bool cut = ColumnsOf(text) > columns;
  const int room = cut ? columns - 1 : columns;
  std::string fitted;
  int used = 0;
  while (!text.empty()) {
    const Letter letter = FirstLetter(text);
    if (used + letter.columns > room) break;
    fitted += letter.bytes;
    used += letter.columns;
    DropLetter(letter, text);
  }
  if (cut && columns > 0) {
    fitted += '~';
    ++used;
  }
  fitted.append(static_cast<size_t>(std::max(columns - used, 0)), ' ');
  return fitted;
}

TopFrame DrawTop(const TopPicture& picture, const TopView& view) {
  TopFrame frame;
  std::vector<TopLine>& lines = frame.lines;
  lines.push_back(TitleLine(picture, view));
  lines.push_back(TabLine(view));
  if (!picture.problem.empty()) {
    lines.push_back(Row(view.width).rest(picture.problem, TopStyle::kBad).take());
  } else if (!picture.error.empty()) {
    lines.push_back(Row(view.width).rest(picture.error, TopStyle::kBad).take());
  } else {
    lines.push_back({});
  }
  Page page = PageOf(picture, view);
  std::ranges::move(page.above, std::back_inserter(lines));
  frame.rows = static_cast<int>(page.rows.size());
  frame.rows_shown = std::max(view.height - static_cast<int>(lines.size()), 0);
  if (page.rows.empty()) lines.push_back(Row(view.width).rest(page.nothing, TopStyle::kDim).take());
  const int first = std::clamp(view.first, 0, std::max(frame.rows - frame.rows_shown, 0));
  for (int i = first; i < std::min(frame.rows, first + frame.rows_shown); ++i)
    lines.push_back(std::move(page.rows[static_cast<size_t>(i)]));
  if (std::ssize(lines) > view.height) lines.resize(static_cast<size_t>(std::max(view.height, 0)));
  return frame;
}

std::string TopText(const TopFrame& frame) {
  std::string text;
  for (const TopLine& line : frame.lines) {
    std::string whole;
    for (const auto& [part, style] : line) whole += part;
    whole.erase(whole.find_last_not_of(' ') + 1);
    text += whole + "\n";
  }
  return text;
}

}  // namespace shoal
