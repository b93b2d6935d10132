#include "api/top/scrape.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/charconv.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::optional<double> ReadNumber(std::string_view text) {
  if (text == "+Inf") return kInfinity;
  double value = 0;
  const auto [end, error] = absl::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// Reads `a="b",c="d"` up to the closing brace, and takes it from `text`. False where it is none of that.
bool TakeLabels(std::string_view& text, ScrapeLabels& labels) {
  while (!text.empty() && text.front() != '}') {
    const size_t equals = text.find("=\"");
    if (equals == std::string_view::npos) return false;
    std::string name(text.substr(0, equals));
    text.remove_prefix(equals + 2);
    std::string value;
    while (!text.empty() && text.front() != '"') {
      if (text.front() == '\\' && text.size() > 1) {
        text.remove_prefix(1);
        value += text.front() == 'n' ? '\n' : text.front();
      } else {
        value += text.front();
      }
      text.remove_prefix(1);
    }
    if (text.empty()) return false;
    text.remove_prefix(1);
    if (text.starts_with(',')) text.remove_prefix(1);
    labels.emplace_back(std::move(name), std::move(value));
  }
  if (text.empty()) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

double ScrapedHistogram::observations() const {
  double sum = 0;
  for (const double count : counts) sum += count;
  return sum;
}

std::optional<double> ScrapedHistogram::quantile(double q) const {
  const double all = observations();
  if (!(all > 0)) return std::nullopt;
  double left = q * all;
  double low = 0;
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (counts[i] > 0 && left <= counts[i])
      return std::isinf(bounds[i]) ? low : low + (bounds[i] - low) * (left / counts[i]);
    left -= counts[i];
    if (!std::isinf(bounds[i])) low = bounds[i];
  }
  return low;
}

ScrapedHistogram ScrapedHistogram::since(const ScrapedHistogram& before) const {
  if (before.bounds != bounds) return *this;
  ScrapedHistogram grown = *this;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] < before.counts[i]) return *this;
    grown.counts[i] -= before.counts[i];
  }
  return grown;
}

Scrape Scrape::Read(std::string_view text) {
  Scrape scrape;
  for (const std::string& line : Split(text, '\n')) {
    std::string_view rest = line;
    if (rest.starts_with('#')) continue;
    const size_t named = rest.find_first_of("{ ");
    if (named == std::string_view::npos || named == 0) continue;
    std::string name(rest.substr(0, named));
    rest.remove_prefix(named);
    Sample sample;
    if (rest.starts_with('{')) {
      rest.remove_prefix(1);
      if (!TakeLabels(rest, sample.labels)) continue;
    }
    while (rest.starts_with(' ')) rest.remove_prefix(1);
    const auto value = ReadNumber(rest.substr(0, rest.find(' ')));  // A time may follow.
    if (!value.has_value()) continue;
    sample.value = *value;
    scrape.samples_[std::move(name)].push_back(std::move(sample));
  }
  return scrape;
}

bool Scrape::Fits(const Sample& sample, const ScrapeLabels& wanted) {
  return std::ranges::all_of(wanted,
                             [&](const auto& label) { return std::ranges::count(sample.labels, label) > 0; });
}

double Scrape::total(std::string_view name, const ScrapeLabels& wanted) const {
  const auto found = samples_.find(name);
  if (found == samples_.end()) return 0;
  double sum = 0;
  for (const Sample& sample : found->second) {
    if (Fits(sample, wanted)) sum += sample.value;
  }
  return sum;
}

double Scrape::growth(const Scrape& before, std::string_view name, const ScrapeLabels& wanted) const {
  const double now = total(name, wanted);
  const double then = before.total(name, wanted);
  return now >= then ? now - then : now;
}

bool Scrape::has(std::string_view name, const ScrapeLabels& wanted) const {
  const auto found = samples_.find(name);
  return found != samples_.end() &&
         std::ranges::any_of(found->second, [&](const Sample& sample) { return Fits(sample, wanted); });
}

ScrapedHistogram Scrape::histogram(const std::string& name) const {
  std::map<double, double> up_to;
  const auto found = samples_.find(name + "_bucket");
  if (found != samples_.end()) {
    for (const Sample& sample : found->second) {
      const auto bound = std::ranges::find(sample.labels, "le", &ScrapeLabels::value_type::first);
      if (bound == sample.labels.end()) continue;
      if (const auto value = ReadNumber(bound->second)) up_to[*value] += sample.value;
    }
  }
  ScrapedHistogram histogram;
  double before = 0;
  for (const auto& [bound, count] : up_to) {
    histogram.bounds.push_back(bound);
    histogram.counts.push_back(std::max(count - before, 0.0));
    before = count;
  }
  return histogram;
}

}  // namespace shoal
