// Reads the text that Prometheus scrapes, and what can be concluded from two of them. Pure functions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

using ScrapeLabels = std::vector<std::pair<std::string, std::string>>;

struct ScrapedHistogram {
  std::vector<double> bounds;  ///< Ascending; the last is infinite.
  std::vector<double> counts;  ///< Of each bucket alone.

  double observations() const;
  /// The value below which the share `q` of all lies, linear within a bucket; nothing where there are none.
  std::optional<double> quantile(double q) const;
  /// What came to it since `before`; all of it where the server began anew.
  ScrapedHistogram since(const ScrapedHistogram& before) const;
};

class Scrape {
 public:
  /// Lines that are none of the format are passed over.
  static Scrape Read(std::string_view text);

  bool empty() const { return samples_.empty(); }
  /// The sum of all samples that have these labels; 0 where there are none.
  double total(std::string_view name, const ScrapeLabels& wanted = {}) const;
  /// What a counter grew by since `before`; a server that began anew counts from zero.
  double growth(const Scrape& before, std::string_view name, const ScrapeLabels& wanted = {}) const;
  /// Whether there is a sample with these labels.
  bool has(std::string_view name, const ScrapeLabels& wanted) const;
  ScrapedHistogram histogram(const std::string& name) const;

 private:
  struct Sample {
    ScrapeLabels labels;
    double value = 0;
  };
  static bool Fits(const Sample& sample, const ScrapeLabels& wanted);

  std::map<std::string, std::vector<Sample>, std::less<>> samples_;
};

}  // namespace shoal
