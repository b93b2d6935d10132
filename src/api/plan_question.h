// POST /cluster/plan: what another plan would come to. Nothing is changed by it unless it says "apply".
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "api/api_error.h"

namespace shoal {

struct PlanQuestion {
  /// A machine that the cluster does not have.
  struct Machine {
    std::string name;
    int64_t memory_bytes = 0;  ///< For weights and cache.
    double read_gbs =
        0;  ///< Rates as `shoal profile` gives them; 0: not known, so that nothing is predicted.
    double int8_gops = 0;
    double f32_gflops = 0;
    double rtt_us = 0;  ///< To each of the others; 0: not known, a usual wired network is assumed.
    double mbs = 0;
  };
  std::string model;  ///< Empty: the server's only one, or its default.
  /// Layers of each node, by its name; nodes that are not named get none. Empty: those of the plan in force, or, with
  /// machines added, the fastest.
  std::vector<std::pair<std::string, int64_t>> layers;
  std::string experts;       ///< As --experts; empty: as the server was asked for.
  std::vector<Machine> add;  ///< Behind the nodes that are there.
  bool apply =
      false;  ///< The layers as they are named, or, where none are, as the server was asked, are to be had from now on.
  bool compare = false;  ///< All strategies beside it, as `shoal plan` shows them.
};

/// Reads the body of a request. A 400 names the field.
ApiResult<PlanQuestion> ParsePlanQuestion(const std::string& body);

}  // namespace shoal
