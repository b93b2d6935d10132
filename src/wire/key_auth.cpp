#include "wire/key_auth.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <mutex>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/text.h"
#include "tls/digest.h"
#include "tls/private_file.h"

namespace shoal {
namespace {

constexpr std::string_view kTokenPurpose = "shoal token v2";

/// What TokenChecker hands out. Anything else comes from no node of ours; gRPC ends the process where metadata has other
/// characters than are printed.
bool IsChallenge(std::string_view text) {
  return text.size() == 2 * kNonceBytes &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Length before each part: no two claims give the same bytes.
std::string Join(const Claim& claim) {
  return fmt::format("{}:{}{}:{}", claim.purpose.size(), claim.purpose, claim.message.size(), claim.message);
}

}  // namespace

std::string RandomNonce() {
  std::string nonce(kNonceBytes, '\0');
  SHOAL_CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), static_cast<int>(nonce.size())),
                 1);
  return nonce;
}

absl::StatusOr<KeyAuth> KeyAuth::from_key(std::string key) {
  if (key.size() < kKeyBytesMin) {
    return InvalidArgument("key: expected at least {} bytes, got {}; make one with: openssl rand -hex 32",
                           kKeyBytesMin, key.size());
  }
  return KeyAuth(std::move(key));
}

absl::StatusOr<KeyAuth> KeyAuth::from_file(const std::string& path) {
  auto key = ReadPrivateFile(path, kKeyFileBytesMax);
  if (!key.ok()) return Annotate(key.status(), "key file");
  while (!key->empty() && (key->back() == '\n' || key->back() == '\r')) key->pop_back();
  auto auth = from_key(*std::move(key));
  if (!auth.ok()) return Annotate(auth.status(), fmt::format("key file '{}'", path));
  return auth;
}

std::string KeyAuth::prove(const Claim& claim) const {
  const std::string text = Join(claim);
  std::string proof(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  SHOAL_CHECK(HMAC(EVP_sha256(), key_->data(), static_cast<int>(key_->size()),
                   reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                   reinterpret_cast<unsigned char*>(proof.data()), &size) != nullptr);
  proof.resize(size);
  return proof;
}

bool KeyAuth::verify(const Claim& claim, std::string_view proof) const {
  return SameInConstantTime(proof, prove(claim));
}

std::string KeyAuth::issue_token(std::string_view challenge, std::string_view context) const {
  if (!IsChallenge(challenge)) return "";
  const std::string stamp = fmt::format("{}.{}", challenge, RandomHex(kNonceBytes));
  return fmt::format("{}.{}", stamp, ToHex(prove({kTokenPurpose, fmt::format("{} {}", stamp, context)})));
}

struct TokenChecker::State {
  /// A challenge, and the nonces of the tokens that answered it.
  struct Round {
    std::string challenge;
    std::set<std::string> seen;
  };

  /// Begins a round where the last one is old. With the mutex held.
  void turn() {
    const int64_t now = now_ns();
    const int64_t rounds = (now - since_ns) / kRoundNs;
    if (rounds > 0) {
      previous = rounds == 1 ? std::move(current) : Round();
      current = Round{RandomHex(kNonceBytes), {}};
      since_ns = now;
    }
  }

  static constexpr int64_t kRoundNs = kChallengeSeconds * 1'000'000'000;
  const KeyAuth key;
  const std::function<int64_t()> now_ns;
  std::mutex mutex;
  Round current{RandomHex(kNonceBytes), {}};
  Round previous;
  int64_t since_ns = now_ns();
};

TokenChecker::TokenChecker(KeyAuth key, std::function<int64_t()> now_ns)
    : state_(new State{.key = std::move(key), .now_ns = std::move(now_ns)}) {}
TokenChecker::~TokenChecker() = default;

std::string TokenChecker::challenge() {
  const std::lock_guard lock(state_->mutex);
  state_->turn();
  return state_->current.challenge;
}

absl::Status TokenChecker::check(std::string_view token, std::string_view context) {
  if (token.empty()) return Unauthenticated("the caller sent no proof of the key: start it with --key-file");
  const auto parts = Split(token, '.');
  if (parts.size() != 3 || parts[0].size() != 2 * kNonceBytes || parts[1].size() != 2 * kNonceBytes) {
    return Unauthenticated("the proof of the key is malformed");
  }
  const std::string stamp = fmt::format("{}.{}", parts[0], parts[1]);
  const std::string proof = ToHex(state_->key.prove({kTokenPurpose, fmt::format("{} {}", stamp, context)}));
  if (!SameInConstantTime(proof, parts[2])) {
    return Unauthenticated("the caller's key is not this node's: give both the same --key-file");
  }
  const std::lock_guard lock(state_->mutex);
  state_->turn();
  for (State::Round* round : {&state_->current, &state_->previous}) {
    if (round->challenge != parts[0]) continue;
    if (round->seen.insert(std::string(parts[1])).second) return absl::OkStatus();
    return Unauthenticated("the proof of the key was used before");
  }
  return Unauthenticated("the proof of the key was made for another process, or too long ago");
}

}  // namespace shoal
