#include "plan/model_list.h"

#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/file.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

constexpr size_t kModelsMax = 1024;
constexpr int64_t kPositionsMax = int64_t{1} << 30;
constexpr int64_t kSequencesMax = 1 << 16;

absl::Status ReadText(const ConfigCursor& map, std::string_view key, std::string& target) {
  if (!map.has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(target, cursor.text());
  if (target.empty()) return cursor.error("expected a text that is not empty");
  return absl::OkStatus();
}

absl::Status ReadCount(const ConfigCursor& map, std::string_view key, int64_t max, int64_t& target) {
  if (!map.has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(target, cursor.integer(1, max));
  return absl::OkStatus();
}

absl::Status ReadPath(const ConfigCursor& map, std::string_view key, const std::string& folder,
                      std::string& target) {
  RETURN_IF_ERROR(ReadText(map, key, target));
  if (!target.empty()) target = (std::filesystem::path(folder) / target).lexically_normal().string();
  return absl::OkStatus();
}

absl::Status ReadAliases(const ConfigCursor& map, DeclaredModel& model) {
  if (!map.has("aliases")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at("aliases"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> list, cursor.list());
  for (const ConfigCursor& one : list) {
    ASSIGN_OR_RETURN(std::string alias, one.text());
    if (alias.empty()) return one.error("expected a text that is not empty");
    model.aliases.push_back(std::move(alias));
  }
  return absl::OkStatus();
}

absl::StatusOr<DeclaredModel> ReadModel(const ConfigCursor& map, const std::string& folder) {
  RETURN_IF_ERROR(map.expect_keys({"path", "name", "aliases", "load", "pinned", "kv_positions", "sequences",
                                   "plan", "cluster", "strategy", "split", "experts", "draft_model"}));
  DeclaredModel model;
  RETURN_IF_ERROR(ReadPath(map, "path", folder, model.path));
  if (model.path.empty()) return map.error("the key path is missing");
  model.name = NameOfModel(model.path);
  RETURN_IF_ERROR(ReadText(map, "name", model.name));
  RETURN_IF_ERROR(ReadAliases(map, model));
  std::string load;
  RETURN_IF_ERROR(ReadText(map, "load", load));
  if (!load.empty() && load != "start" && load != "demand") {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at("load"));
    return cursor.expected("start or demand");
  }
  model.at_start = load == "start";
  if (map.has("pinned")) {
    ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at("pinned"));
    ASSIGN_OR_RETURN(model.pinned, cursor.boolean());
  }
  RETURN_IF_ERROR(ReadCount(map, "kv_positions", kPositionsMax, model.kv_positions));
  RETURN_IF_ERROR(ReadCount(map, "sequences", kSequencesMax, model.sequences));
  RETURN_IF_ERROR(ReadPath(map, "plan", folder, model.plan));
  RETURN_IF_ERROR(ReadPath(map, "cluster", folder, model.cluster));
  RETURN_IF_ERROR(ReadPath(map, "draft_model", folder, model.draft_model));
  for (const auto& [key, target] : {std::pair{"strategy", &model.strategy}, std::pair{"split", &model.split},
                                    std::pair{"experts", &model.experts}}) {
    RETURN_IF_ERROR(ReadText(map, key, *target));
    if (target->empty() || model.plan.empty()) continue;
    return map.error(fmt::format("plan and {} are given, expected one of them", key));
  }
  return model;
}

}  // namespace

std::string NameOfModel(const std::string& path) {
  std::filesystem::path place = std::filesystem::path(path).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  return (place.extension() == ".gguf" ? place.stem() : place.filename()).string();
}

absl::StatusOr<std::vector<DeclaredModel>> ParseModelList(std::string_view text, ConfigSyntax syntax,
                                                          const std::string& folder) {
  ASSIGN_OR_RETURN(const ConfigValue root,
                   syntax == ConfigSyntax::kJson ? ParseJsonConfig(text, {}) : ParseYamlConfig(text, {}));
  const ConfigCursor cursor(root);
  RETURN_IF_ERROR(cursor.expect_keys({"models"}));
  ASSIGN_OR_RETURN(const ConfigCursor models, cursor.at("models"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> list, models.list());
  if (list.empty() || list.size() > kModelsMax) {
    return models.expected(fmt::format("1 to {} models", kModelsMax));
  }
  std::vector<DeclaredModel> declared;
  for (const ConfigCursor& one : list) {
    ASSIGN_OR_RETURN(DeclaredModel model, ReadModel(one, folder));
    declared.push_back(std::move(model));
  }
  RETURN_IF_ERROR(CheckNames(declared));
  return declared;
}

absl::StatusOr<std::vector<DeclaredModel>> ReadModelList(const std::string& path) {
  const std::optional<ConfigSyntax> syntax = SyntaxOf(path);
  if (!syntax) return InvalidArgument("{}: a list of models ends with .json, .yaml or .yml", path);
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, ConfigLimits{}.bytes));
  auto models = ParseModelList(text, *syntax, std::filesystem::path(path).parent_path().string());
  if (!models.ok()) return Annotate(models.status(), path);
  return models;
}

absl::Status CheckNames(const std::vector<DeclaredModel>& models) {
  std::set<std::string> names;
  const auto add = [&names](const std::string& name) {
    if (names.insert(name).second) return absl::OkStatus();
    return InvalidArgument("two models are called '{}'; give one of them another name", name);
  };
  for (const DeclaredModel& model : models) {
    RETURN_IF_ERROR(add(model.name));
    for (const std::string& alias : model.aliases) RETURN_IF_ERROR(add(alias));
  }
  return absl::OkStatus();
}

}  // namespace shoal
