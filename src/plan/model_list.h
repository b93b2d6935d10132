// The file of models that one server offers (--models FILE.yaml): where each lies, how it is called, what it gets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "plan/cluster_file.h"

namespace shoal {

/// Where a text is empty or a number 0, the command line's flag decides.
struct DeclaredModel {
  std::string name;
  std::string path;  ///< Of the folder or the GGUF file.
  std::vector<std::string> aliases;
  bool at_start = false;  ///< Loaded when the server starts, not when it is first asked for.
  bool pinned = false;    ///< Never gives way to another model.
  int64_t kv_positions = 0;
  int64_t sequences = 0;
  std::string plan;     ///< Path of a plan file.
  std::string cluster;  ///< Path of a cluster file.
  std::string strategy;
  std::string split;
  std::string experts;
  std::string draft_model;  ///< Path of the folder or the GGUF file.
};

/// Parses a list of models. Keys (* required):
///   models*            a list of
///     path*            folder or GGUF file
///     name             default: the last part of the path, without ".gguf"
///     aliases          a list of further names
///     load             "start" or "demand", default "demand"
///     pinned           true or false, default false
///     kv_positions, sequences
///                      as the flags of these names
///     plan, cluster, strategy, split, experts, draft_model
///                      as the flags of these names
/// Paths that are not absolute begin at `folder`. Names and aliases are all different.
/// Returns InvalidArgument as ParseClusterFile does.
absl::StatusOr<std::vector<DeclaredModel>> ParseModelList(std::string_view text, ConfigSyntax syntax,
                                                          const std::string& folder);

/// ParseModelList of a file, whose extension gives the syntax; paths begin at its folder.
absl::StatusOr<std::vector<DeclaredModel>> ReadModelList(const std::string& path);

/// The last part of a path, without ".gguf".
std::string NameOfModel(const std::string& path);

/// That no two models have a name or an alias in common: InvalidArgument names it.
absl::Status CheckNames(const std::vector<DeclaredModel>& models);

}  // namespace shoal
