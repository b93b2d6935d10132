// The cluster's own certificate authority: a key that signs one certificate per node.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

/// A name that every node's certificate has, for peers that do not know yet how a node is called.
inline constexpr char kAnyNodeName[] = "any.node.shoal";

inline constexpr int kAuthorityDays = 3650;
inline constexpr int kNodeDays = 730;
/// Of a node that asks for its certificate, and for another in time.
inline constexpr int kEnrolledDays = 90;
inline constexpr int kDaysMax = 36500;

/// Both as PEM.
struct CertifiedKey {
  std::string certificate;
  std::string key;
};

/// Letters, digits, '-', '_' and '.', at most 63 of them: what a certificate can name as a host.
bool IsCertifiableName(std::string_view name);

/// An authority that signs nodes and nothing else. days: from now_s on, and an hour before. InvalidArgument: days out of
/// [1, kDaysMax].
absl::StatusOr<CertifiedKey> MakeAuthority(int days = kAuthorityDays, int64_t now_s = UnixSeconds());

struct NodeCertificateOrder {
  std::string name;                    ///< As plans name the node; IsCertifiableName().
  std::vector<std::string> addresses;  ///< Names and IP addresses at which HTTPS clients reach it, too.
  int days = kNodeDays;
  int64_t now_s = UnixSeconds();  ///< From when the days count; an hour before that it is good already.
};
/// A new P-256 key and a request (PEM, PKCS #10) for a certificate of it: the key stays where it was made.
CertifiedKey MakeCertificateRequest(const std::string& name);
/// The certificate (PEM) that the authority gives the key of a request; of the request nothing else counts. InvalidArgument:
/// no request, one that its key did not sign, a key that is not of P-256; else as MakeNodeCertificate.
absl::StatusOr<std::string> SignCertificateRequest(const CertifiedKey& authority, std::string_view request,
                                                   const NodeCertificateOrder& order);
/// The authority of a folder of `shoal cert init`: ca.pem, and ca.key. NotFound: there is no such key.
absl::StatusOr<CertifiedKey> ReadAuthority(const std::string& folder);

/// A new P-256 key and its certificate, for both ends of a connection. InvalidArgument: a bad name, address or number of
/// days, or an authority that is none.
absl::StatusOr<CertifiedKey> MakeNodeCertificate(const CertifiedKey& authority,
                                                 const NodeCertificateOrder& order);

}  // namespace shoal
