// What people and peers ask of a certificate: whom it names, and from when to when it is good.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

inline constexpr int64_t kSecondsPerDay = 86400;
/// A certificate that ends within this is worth a warning.
inline constexpr int64_t kExpiryWarningSeconds = 30 * kSecondsPerDay;

struct CertificateFacts {
  std::string subject;             ///< Its common name.
  std::vector<std::string> names;  ///< Its subject alternative names: DNS names, then addresses.
  int64_t begins_s = 0;            ///< Unix seconds, as the next.
  int64_t ends_s = 0;

  bool has_name(std::string_view name) const;
};

/// The first certificate of a PEM text. place: the file, for messages. InvalidArgument where there is none.
absl::StatusOr<CertificateFacts> ReadCertificate(std::string_view pem, const std::string& place);

/// The first certificate of a PEM text as DER, which is shorter, and back. Errors as ReadCertificate().
absl::StatusOr<std::string> DerOfCertificate(std::string_view pem, const std::string& place);
absl::StatusOr<std::string> PemOfCertificate(std::string_view der, const std::string& place);

/// "2027-03-01".
std::string DayOf(int64_t unix_s);

/// "" while the certificate is good for longer than kExpiryWarningSeconds; else what is to be said of that.
std::string ExpiryWarning(const CertificateFacts& facts, int64_t now_s);

}  // namespace shoal
