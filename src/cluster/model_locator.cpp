#include "cluster/model_locator.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/status.h"
#include "base/text.h"
#include "formats/gguf_files.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCachePrefix = "models--";
constexpr size_t kNamesListedMax = 2000;

/// One root: as given, for messages, and resolved. A root that does not exist has no resolved path.
struct Root {
  std::string given;
  std::optional<fs::path> resolved;
};

std::vector<Root> ResolveRoots(const std::vector<std::string>& roots) {
  std::vector<Root> result;
  for (const std::string& given : roots) {
    std::error_code error;
    const fs::path resolved = fs::canonical(given, error);
    result.push_back({given, error ? std::nullopt : std::optional(resolved)});
  }
  return result;
}

std::string DescribeRoots(const std::vector<Root>& roots) {
  std::vector<std::string> parts;
  for (const Root& root : roots) parts.push_back(root.given + (root.resolved ? "" : " (does not exist)"));
  return Join(parts, ", ");
}

/// Whether `path` is `root` or below it; both resolved.
bool IsBelow(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

bool IsFolder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

/// Folders directly in `path`, sorted by name; empty where it cannot be read.
std::vector<fs::path> FoldersIn(const fs::path& path) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    if (IsFolder(at->path())) folders.push_back(at->path());
  }
  std::ranges::sort(folders);
  return folders;
}

/// Whether `path` is a GGUF file. Caches link to blobs without an extension, so its own name counts.
bool IsGgufFile(const fs::path& path) {
  std::error_code error;
  return path.extension() == kGgufExtension && fs::is_regular_file(path, error);
}

/// As CheckedFolder, for a file: its folder's real path with its own name, so that a split model's other
/// files are found.
absl::StatusOr<std::string> CheckedGguf(const fs::path& file, const Root& root) {
  std::error_code error;
  const fs::path folder = fs::canonical(file.parent_path(), error);
  if (error) return NotFound("model file {}: expected a file", file.string());
  std::string found = (folder / file.filename()).string();
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, GgufFiles(found));
  for (const std::string& part : parts) {
    const fs::path target = fs::canonical(part, error);
    if (error) {  // Not kNotFound, which has other roots looked through: the model is here, and lacks a part.
      return FailedPrecondition(
          "model file {}: expected this part of the model, found nothing. Is the download complete?", part);
    }
    if (!IsBelow(target, *root.resolved)) {
      return PermissionDenied("model file {}: it leads to {}, which is outside the model root {}", part,
                              target.string(), root.given);
    }
  }
  return found;
}

/// The folder itself or NotFound; PermissionDenied where it, or a file in it, leads out of `root`.
absl::StatusOr<std::string> CheckedFolder(const fs::path& folder, const Root& root) {
  if (IsGgufFile(folder)) return CheckedGguf(folder, root);
  std::error_code error;
  const fs::path resolved = fs::canonical(folder, error);
  if (error || !IsFolder(resolved)) return NotFound("model folder {}: expected a folder", folder.string());
  if (!IsBelow(resolved, *root.resolved)) {
    return PermissionDenied("model folder {}: it leads to {}, which is outside the model root {}",
                            folder.string(), resolved.string(), root.given);
  }
  if (!fs::exists(resolved / "config.json", error)) {
    ASSIGN_OR_RETURN(const std::optional<std::string> gguf, GgufInFolder(resolved.string()));
    if (!gguf) {
      return NotFound("model folder {}: expected a config.json or a GGUF file in it, found neither",
                      resolved.string());
    }
  }
  for (fs::directory_iterator at(resolved, error), end; !error && at != end; at.increment(error)) {
    std::error_code broken;
    if (!at->is_symlink(broken)) continue;
    const fs::path target = fs::canonical(at->path(), broken);
    if (!broken && !IsBelow(target, *root.resolved)) {
      return PermissionDenied("model file {}: it links to {}, which is outside the model root {}",
                              at->path().string(), target.string(), root.given);
    }
  }
  if (error)
    return PermissionDenied("model folder {}: cannot list it: {}", resolved.string(), error.message());
  return resolved.string();
}

/// The snapshot of a cache folder models--provider--name.
absl::StatusOr<fs::path> SnapshotOf(const fs::path& cache) {
  std::ifstream ref(cache / "refs" / "main");
  std::string revision;
  if (ref >> revision) {
    if (revision.find('/') != std::string::npos || revision.starts_with('.')) {
      return InvalidArgument("{}: expected a revision, found '{}'", (cache / "refs" / "main").string(),
                             revision);
    }
    return cache / "snapshots" / revision;
  }
  const std::vector<fs::path> snapshots = FoldersIn(cache / "snapshots");
  if (snapshots.size() == 1) return snapshots.front();
  return FailedPrecondition(
      "{}: expected refs/main or one snapshot, found {} snapshots. Is the download complete?", cache.string(),
      snapshots.size());
}

/// "provider/name" of a cache folder's name "models--provider--name"; "" where it is not one.
std::string NameOfCache(const fs::path& folder) {
  const std::string file_name = folder.filename().string();
  if (!file_name.starts_with(kCachePrefix)) return "";
  std::string name = file_name.substr(kCachePrefix.size());
  if (const size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
  return name;
}

std::vector<fs::path> CachesIn(const fs::path& root) {
  std::vector<fs::path> caches;
  for (const fs::path& place : {root, root / "hub"}) {
    for (const fs::path& folder : FoldersIn(place)) {
      if (!NameOfCache(folder).empty()) caches.push_back(folder);
    }
  }
  return caches;
}

std::string LastPart(std::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

/// Snapshot folders of `name` (with or without provider) in the caches of a root.
absl::StatusOr<std::vector<fs::path>> CacheCandidates(const fs::path& root, std::string_view name) {
  const bool has_provider = name.find('/') != std::string_view::npos;
  std::vector<fs::path> matching;
  for (const fs::path& cache : CachesIn(root)) {
    const std::string cached = NameOfCache(cache);
    if (cached == name || (!has_provider && LastPart(cached) == name)) matching.push_back(cache);
  }
  if (matching.size() > 1) {
    std::vector<std::string> names;
    for (const fs::path& cache : matching) names.push_back(NameOfCache(cache));
    return InvalidArgument("model '{}': {} cached models have this name: {}. Say which, as provider/name.",
                           name, matching.size(), Join(names, ", "));
  }
  std::vector<fs::path> result;
  for (const fs::path& cache : matching) {
    ASSIGN_OR_RETURN(fs::path snapshot, SnapshotOf(cache));
    result.push_back(std::move(snapshot));
  }
  return result;
}

/// The model in one root; NotFound where the root has no such folder.
absl::StatusOr<std::string> FindInRoot(const Root& root, std::string_view name) {
  for (const fs::path& candidate : {*root.resolved / name, *root.resolved / LastPart(name)}) {
    if (!IsFolder(candidate) && !IsGgufFile(candidate)) continue;
    auto found = CheckedFolder(candidate, root);
    if (found.ok() || found.status().code() != absl::StatusCode::kNotFound) return found;
  }
  ASSIGN_OR_RETURN(const std::vector<fs::path> cached, CacheCandidates(*root.resolved, name));
  if (!cached.empty()) return CheckedFolder(cached.front(), root);
  return NotFound("no folder of model '{}' in {}", name, root.given);
}

/// Names that FindModel would find, for a hint.
std::vector<std::string> KnownNames(const std::vector<Root>& roots) {
  std::vector<std::string> names;
  for (const Root& root : roots) {
    if (!root.resolved) continue;
    for (const fs::path& cache : CachesIn(*root.resolved)) names.push_back(NameOfCache(cache));
    for (const fs::path& folder : FoldersIn(*root.resolved)) {
      if (names.size() >= kNamesListedMax) return names;
      const std::string name = folder.filename().string();
      names.push_back(name);
      for (const fs::path& inner : FoldersIn(folder)) {
        std::error_code error;
        if (fs::exists(inner / "config.json", error)) names.push_back(name + "/" + inner.filename().string());
      }
    }
  }
  return names;
}

absl::StatusOr<std::string> FindAbsolute(const std::vector<Root>& roots, const std::string& path) {
  std::error_code error;
  const fs::path resolved = fs::canonical(path, error);
  for (const Root& root : roots) {
    // A path that does not exist is compared as text, so that the answer outside the roots is the same for
    // every path.
    const fs::path shown = error ? fs::path(path).lexically_normal() : resolved;
    if (!root.resolved || !IsBelow(shown, *root.resolved)) continue;
    if (error) return NotFound("model folder {}: expected a folder, found nothing", path);
    return CheckedFolder(IsGgufFile(path) ? fs::path(path) : resolved, root);
  }
  return PermissionDenied("model folder {}: expected a path below a model root ({})", path,
                          DescribeRoots(roots));
}

absl::Status CheckRelativeName(std::string_view name) {
  const std::vector<std::string> parts = Split(name, '/');
  for (const std::string& part : parts) {
    if (part == "..") return PermissionDenied("model '{}': '..' is not allowed in a model's name", name);
    if (part.empty() || part == ".")
      return InvalidArgument("model '{}': expected a name or provider/name", name);
  }
  if (parts.empty() || parts.size() > 2) {
    return InvalidArgument("model '{}': expected a name, provider/name or an absolute path", name);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FindModel(const std::vector<std::string>& root_paths, std::string_view name) {
  if (root_paths.empty()) {
    return FailedPrecondition("model '{}': no folder to look in: give --model-root DIR", name);
  }
  if (name.find('\0') != std::string_view::npos) return InvalidArgument("model name: it holds a zero byte");
  const std::vector<Root> roots = ResolveRoots(root_paths);
  if (name.starts_with('/')) return FindAbsolute(roots, std::string(name));
  RETURN_IF_ERROR(CheckRelativeName(name));
  for (const Root& root : roots) {
    if (!root.resolved) continue;
    auto found = FindInRoot(root, name);
    if (found.ok() || found.status().code() != absl::StatusCode::kNotFound) return found;
  }
  const std::string nearest = NearestWord(name, KnownNames(roots));
  return NotFound(
      "model '{}': no folder of this name with a config.json, and no GGUF file, below the model roots ({}){}",
      name, DescribeRoots(roots), nearest.empty() ? "" : fmt::format("; nearest name there: '{}'", nearest));
}

absl::StatusOr<std::vector<LocatedModel>> ListModels(const std::string& root,
                                                     std::vector<absl::Status>& refused) {
  const std::vector<Root> roots = ResolveRoots({root});
  if (!roots.front().resolved) return NotFound("{}: expected a folder with models", root);
  std::vector<LocatedModel> models;
  const auto add = [&](const std::string& name, const std::string& place) {
    auto found = FindInRoot(roots.front(), place);
    if (found.ok()) {
      models.push_back({name, *std::move(found)});
    } else if (found.status().code() != absl::StatusCode::kNotFound) {
      refused.push_back(found.status());
    }
  };
  for (const std::string& name : KnownNames(roots)) add(name, name);
  std::error_code error;
  for (fs::directory_iterator at(*roots.front().resolved, error), end; !error && at != end;
       at.increment(error)) {
    // Of a file in several parts the first stands for all.
    const std::string stem = at->path().stem().string();
    const size_t of = stem.rfind("-of-");
    const bool later = of != std::string::npos && !stem.substr(0, of).ends_with("-00001");
    if (IsGgufFile(at->path()) && !later) add(stem, at->path().filename().string());
  }
  std::ranges::sort(models, {}, &LocatedModel::name);
  return models;
}

std::vector<std::string> ModelNames(const std::string& folder, const std::string& provider_and_name) {
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::weakly_canonical(folder, ignored);
  std::vector<std::string> names = {path.string()};
  if (!provider_and_name.empty()) names.push_back(provider_and_name);
  for (const auto& part : path) {
    const std::string text = part.string();
    if (text.starts_with("models--")) {  // A Hugging Face cache: models--provider--name/snapshots/revision.
      const size_t cut = text.find("--", 8);
      if (cut != std::string::npos) names.push_back(text.substr(8, cut - 8) + "/" + text.substr(cut + 2));
    }
  }
  names.push_back(path.filename().string());
  return names;
}

}  // namespace shoal
