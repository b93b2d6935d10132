#include "wire/join_token.h"

#include "base/status.h"
#include "base/text.h"
#include "wire/key_auth.h"

namespace shoal {
namespace {

constexpr std::string_view kPrefix = "shoal1_";
constexpr std::string_view kPrefixWithAuthority = "shoal2_";
constexpr size_t kAuthorityBytesMax = 4096;
constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr size_t kAddressesMax = 16;
constexpr size_t kAddressBytesMax = 255;
constexpr size_t kSumBytes = 6;

// RFC 4648, section 5, without padding.
std::string ToBase64(std::string_view bytes) {
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = (bits << 8) | static_cast<unsigned char>(c);
    for (count += 8; count >= 6; count -= 6) text += kDigits[(bits >> (count - 6)) & 63];
  }
  if (count > 0) text += kDigits[(bits << (6 - count)) & 63];
  return text;
}

/// "" where the text is none, as no token is empty.
std::string FromBase64(std::string_view text) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return "";
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>((bits >> count) & 255);
  }
  return bytes;
}

/// Tells a whole token from one that was cut off or mistyped; keeps nobody out.
std::string Sum(const JoinToken& token) {
  std::string text = fmt::format("{} addresses", token.addresses.size());
  for (const std::string& address : token.addresses) text += "\n" + address;
  if (!token.authority.empty()) text += "\nauthority\n" + token.authority;
  const auto key = KeyAuth::from_key(token.key);
  return key.ok() ? key->prove({"shoal join token v1", text}).substr(0, kSumBytes) : "";
}

absl::Status Malformed(std::string_view why) {
  return InvalidArgument("the token is not whole: {}. Copy it again, or make another: shoal token create",
                         why);
}

}  // namespace

// A count of addresses; each behind its length; the key, behind two bytes of length; likewise the authority, if there is one;
// the sum.
std::string FormatJoinToken(const JoinToken& token) {
  std::string bytes(1, static_cast<char>(token.addresses.size()));
  for (const std::string& address : token.addresses) {
    bytes += static_cast<char>(address.size());
    bytes += address;
  }
  const auto add = [&bytes](const std::string& part) {
    bytes += static_cast<char>(part.size() >> 8);
    bytes += static_cast<char>(part.size() & 255);
    bytes += part;
  };
  add(token.key);
  if (!token.authority.empty()) add(token.authority);
  return std::string(token.authority.empty() ? kPrefix : kPrefixWithAuthority) + ToBase64(bytes + Sum(token));
}

bool IsJoinToken(std::string_view text) {
  return text.starts_with(kPrefix) || text.starts_with(kPrefixWithAuthority);
}

absl::StatusOr<JoinToken> ParseJoinToken(std::string_view text) {
  if (!IsJoinToken(text)) return Malformed("it does not begin with shoal1_");
  if (std::ssize(text) > kJoinTokenBytesMax) return Malformed("it is too long");
  const std::string bytes = FromBase64(text.substr(kPrefix.size()));
  size_t at = 0;
  // The next `count` bytes; at stays beyond the end once they lack.
  const auto take = [&](size_t count) {
    if (bytes.size() < at || bytes.size() - at < count) {
      at = bytes.size() + 1;
      return std::string();
    }
    at += count;
    return bytes.substr(at - count, count);
  };
  const auto number = [&](size_t count) {
    size_t value = 0;
    for (const char c : take(count)) value = value * 256 + static_cast<unsigned char>(c);
    return value;
  };
  JoinToken token;
  const size_t addresses = number(1);
  if (addresses == 0 || addresses > kAddressesMax) return Malformed("it has no address");
  for (size_t i = 0; i < addresses; ++i) {
    token.addresses.push_back(take(number(1)));
    const auto address = ParseHostPort(token.addresses.back());
    if (!address.ok() || address->port == 0) return Malformed("an address in it is none");
  }
  token.key = take(number(2));
  if (text.starts_with(kPrefixWithAuthority)) {
    token.authority = take(number(2));
    if (token.authority.empty() || token.authority.size() > kAuthorityBytesMax)
      return Malformed("its authority lacks");
  }
  const std::string sum = take(kSumBytes);
  if (at != bytes.size()) return Malformed("its end lacks, or there is more behind it");
  if (token.key.size() < kKeyBytesMin || sum != Sum(token)) return Malformed("its sum is wrong");
  if (FormatJoinToken(token) != text) return Malformed("its last letter is wrong");
  return token;
}

}  // namespace shoal
