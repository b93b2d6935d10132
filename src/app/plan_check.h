// `shoal bench --check-plan`: holds a running cluster to what its plan predicts.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace shoal {

struct PlanCheck {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  std::string model;  ///< Of a server of several; empty: the first of /v1/models.
  int runs = 3;       ///< Of each measurement, after one to warm up; the median counts.
  double within =
      0;  ///< Largest error, in percent of what is measured, that is no error of the command; 0: any.
  bool json = false;
};

/// Measures at the client what the coordinator predicts, and prints both: tokens/s of one stream and of 16, with 1024
/// positions in the cache each, and the time to the first token of a prompt of 2048 tokens, as far as the model's context and
/// the cache have room. FailedPrecondition: the cluster is not up, is busy, or predicts nothing. OutOfRange: an error beyond
/// `within`. Otherwise errors as HttpClient.
absl::Status CheckPlan(const PlanCheck& check);

}  // namespace shoal
