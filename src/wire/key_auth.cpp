#include "wire/key_auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <charconv>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr std::string_view kTokenPurpose = "shoal token v1";

std::string ToHex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
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
  auto key = ReadTextFile(path, kKeyFileBytesMax);
  if (!key.ok()) return Annotate(key.status(), "key file");
  const std::string place = fmt::format("key file '{}'", path);
  std::error_code unknown;  // Then all permissions are set.
  const auto status = std::filesystem::status(path, unknown);
  using std::filesystem::perms;
  if ((status.permissions() & (perms::group_read | perms::others_read)) != perms::none) {
    return InvalidArgument("{} can be read by other users: chmod 600 '{}'", place, path);
  }
  while (!key->empty() && (key->back() == '\n' || key->back() == '\r')) key->pop_back();
  auto auth = from_key(*std::move(key));
  if (!auth.ok()) return Annotate(auth.status(), place);
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
  const std::string expected = prove(claim);
  return proof.size() == expected.size() &&
         CRYPTO_memcmp(proof.data(), expected.data(), expected.size()) == 0;
}

std::string KeyAuth::issue_token(std::string_view context) const {
  const std::string stamp = fmt::format("{}.{}", UnixSeconds(), ToHex(RandomNonce()));
  return fmt::format("{}.{}", stamp, ToHex(prove({kTokenPurpose, fmt::format("{} {}", stamp, context)})));
}

struct TokenChecker::State {
  KeyAuth key;
  std::mutex mutex;
  std::multimap<int64_t, std::string>
      seen;  // Unix seconds of issue -> stamp, until it would be too old anyway.
};

TokenChecker::TokenChecker(KeyAuth key) : state_(new State{.key = std::move(key)}) {}
TokenChecker::~TokenChecker() = default;

absl::Status TokenChecker::check(std::string_view token, std::string_view context) {
  if (token.empty()) return Unauthenticated("the caller sent no proof of the key: start it with --key-file");
  const auto parts = Split(token, '.');
  int64_t issued = 0;
  if (parts.size() != 3 || parts[1].size() != 2 * kNonceBytes ||
      std::from_chars(parts[0].data(), parts[0].data() + parts[0].size(), issued).ptr !=
          parts[0].data() + parts[0].size()) {
    return Unauthenticated("the proof of the key is malformed");
  }
  const std::string stamp = fmt::format("{}.{}", parts[0], parts[1]);
  const std::string proof = ToHex(state_->key.prove({kTokenPurpose, fmt::format("{} {}", stamp, context)}));
  if (proof.size() != parts[2].size() || CRYPTO_memcmp(proof.data(), parts[2].data(), proof.size()) != 0) {
    return Unauthenticated("the caller's key is not this node's: give both the same --key-file");
  }
  const int64_t now = UnixSeconds();
  if (issued < now - kLifetimeSeconds || issued > now + kLifetimeSeconds) {
    return Unauthenticated(
        "the proof of the key was made {} s away from this node's clock, at most {} s are accepted",
        now - issued, kLifetimeSeconds);
  }
  std::lock_guard lock(state_->mutex);
  auto& seen = state_->seen;
  seen.erase(seen.begin(), seen.lower_bound(now - kLifetimeSeconds));
  for (auto [it, end] = seen.equal_range(issued); it != end; ++it) {
    if (it->second == stamp) return Unauthenticated("the proof of the key was used before");
  }
  seen.emplace(issued, stamp);
  return absl::OkStatus();
}

}  // namespace shoal
