// Proof that a peer knows the cluster's pre-shared key, without the key ever travelling.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

inline constexpr size_t kNonceBytes = 32;
inline constexpr size_t kKeyBytesMin = 16;
inline constexpr int64_t kKeyFileBytesMax = 1 << 16;

/// kNonceBytes from the system's cryptographic generator.
std::string RandomNonce();

/// What is proved: `purpose` keeps a proof made for one place from being used in another, `message` is what
/// it covers.
struct Claim {
  std::string_view purpose;
  std::string_view message;
};

/// HMAC-SHA256 (RFC 2104, FIPS 198-1) under the key of a file. Cheap to copy; never printed.
class KeyAuth {
 public:
  /// The key is the file's bytes without trailing line ends. NotFound, or InvalidArgument where it is shorter
  /// than kKeyBytesMin, the file is longer than kKeyFileBytesMax, or other users may read it.
  static absl::StatusOr<KeyAuth> from_file(const std::string& path);
  /// InvalidArgument below kKeyBytesMin bytes.
  static absl::StatusOr<KeyAuth> from_key(std::string key);

  /// 32 bytes.
  std::string prove(const Claim& claim) const;
  /// In constant time.
  bool verify(const Claim& claim, std::string_view proof) const;

  /// A token for one call, safe to put into metadata: "<challenge>.<nonce>.<proof>", nonce and proof in hex. It proves
  /// `context` (the method and whatever of the request shall not be changed) to the one process whose TokenChecker made
  /// the challenge. An empty challenge, or what is none, gives an empty token: the answer to it tells the challenge.
  std::string issue_token(std::string_view challenge, std::string_view context) const;

 private:
  explicit KeyAuth(std::string key) : key_(std::make_shared<const std::string>(std::move(key))) {}
  std::shared_ptr<const std::string> key_;
};

/// Checks tokens of KeyAuth::issue_token. A token answers a challenge that this checker made and that is not old, so one
/// that was overheard is good for no other process and for no later one at the same address; each is good once. No clock
/// of the caller's is asked. Safe from any thread.
class TokenChecker {
 public:
  /// now_ns: a clock that never goes back.
  explicit TokenChecker(KeyAuth key, std::function<int64_t()> now_ns = NowNs);
  ~TokenChecker();

  /// What the next tokens are to answer, in hex. Public: whoever calls is told.
  std::string challenge();

  /// Unauthenticated, saying whether the token is missing, malformed, wrong, of another challenge or replayed.
  absl::Status check(std::string_view token, std::string_view context);

  /// For how long a challenge is handed out; its answers are taken for as long again.
  static constexpr int64_t kChallengeSeconds = 60;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal
