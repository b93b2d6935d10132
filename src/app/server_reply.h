// What a server answers, for the subcommands that ask one.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/http/client.h"

namespace shoal {

/// The body; null where it is not JSON.
nlohmann::json JsonOf(const HttpReply& reply);

/// Of a reply that is not 200: FailedPrecondition with its status, and the message of its error, or else its body.
absl::Status RefusedBy(const HttpReply& reply);

/// The first model that the server says it has. Unavailable: it says none. Otherwise errors as HttpClient.
absl::StatusOr<std::string> FirstModel(const HttpClient& client);

}  // namespace shoal
