// The table "which models of the hub run" in docs/models.md, held to what the families know.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "models/family.h"

namespace shoal {
namespace {

struct HubRow {
  std::string name;
  std::string model_type;
  std::string result;
};

/// The cells of a row of a Markdown table, without spaces and backquotes around them.
std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells;
  for (size_t at = 1; at < line.size();) {
    const size_t end = line.find('|', at);
    if (end == std::string::npos) break;
    std::string cell = line.substr(at, end - at);
    while (!cell.empty() && (cell.front() == ' ' || cell.front() == '`')) cell.erase(0, 1);
    while (!cell.empty() && (cell.back() == ' ' || cell.back() == '`')) cell.pop_back();
    cells.push_back(cell);
    at = end + 1;
  }
  return cells;
}

std::vector<HubRow> Table() {
  std::ifstream file(std::string(SHOAL_SOURCE_DIR) + "/docs/models.md");
  std::vector<HubRow> rows;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line == "<!-- hub: begin -->") inside = true;
    if (line == "<!-- hub: end -->") inside = false;
    const std::vector<std::string> cells = Cells(line);
    if (!inside || cells.size() != 3 || cells[0].find('/') == std::string::npos) continue;
    rows.push_back({cells[0], cells[1], cells[2]});
  }
  return rows;
}

TEST(HubModels, TheTableSaysWhatTheFamiliesKnow) {
  const std::vector<HubRow> rows = Table();
  EXPECT_GE(rows.size(), 60u);
  std::set<std::string> names;
  for (const HubRow& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_TRUE(names.insert(row.name).second);
    const auto family = FindFamily(row.model_type);
    const bool runs = row.result.starts_with("runs") || row.result.starts_with("as text");
    const bool partly =
        row.result.starts_with("refused: '");  // The family is known; a key of this model is not built.
    EXPECT_TRUE(runs || partly || row.result.starts_with("refused: `model_type`")) << row.result;
    EXPECT_EQ(family.ok(), runs || partly) << row.result;
    if (!family.ok() || !row.result.starts_with("as text")) continue;
    const auto config = ModelConfig::Parse((*family)->tiny(), "config.json");
    ASSERT_TRUE(config.ok());
    const auto spec = SpecFor(*config);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_FALSE(spec->ignored_tensors.empty());
  }
}

}  // namespace
}  // namespace shoal
