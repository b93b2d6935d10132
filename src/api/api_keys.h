// Keys of those who may use the API, and what each may ask for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/server.h"
#include "base/clock.h"

namespace shoal {

struct ApiKey {
  std::string digest;      ///< SHA-256 of the secret, in hex: the secret itself is not kept.
  std::string name;        ///< For logs; never secret.
  int concurrent_max = 0;  ///< POST requests being answered at once; 0: no limit.
  int per_minute_max = 0;  ///< POST requests a minute, so many of them at once; 0: no limit.
  /// Of its requests that name none, and the best that they may name: the lower, the earlier.
  int priority = 0;
  bool hashed = true;  ///< Its line has the digest; else the secret in plain.
};

/// The keys of a file, one a line: "KEY [name=NAME] [concurrent=N] [per-minute=N] [priority=N]", where KEY is
/// "sha256:DIGEST" in hex, or the secret itself; empty lines and lines that begin with '#' do not count. Keys without a
/// name get `unnamed` and a number. InvalidArgument names `source` and the line (never the secret) that is wrong, and
/// files without keys.
absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(std::string_view text, const std::string& source,
                                                 std::string_view unnamed = "key");

class ApiKeys {
 public:
  /// `keys`: at least one. `now_ns` is the clock of the limits.
  explicit ApiKeys(std::vector<ApiKey> keys, std::function<int64_t()> now_ns = NowNs);
  ~ApiKeys();

  /// For HttpServerOptions::admit. 401 without a key that is known, as "Authorization: Bearer KEY" or "x-api-key: KEY";
  /// 429 beyond the key's limits. Its time does not tell how much of a key is right.
  HttpAdmission admit(const HttpRequest& request);

  /// ApiKey::priority of the key, or keys, of this name, of several the highest number; 0 where there is none.
  int priority_of(std::string_view name) const;

 private:
  struct Caller;

  const std::function<int64_t()> now_ns_;
  std::vector<std::shared_ptr<Caller>> callers_;
};

}  // namespace shoal
