#include "tls/certificate.h"

#include <fmt/chrono.h>
#include <openssl/asn1.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>

#include "base/check.h"
#include "base/status.h"
#include "tls/certificate_facts.h"
#include "tls/openssl.h"

namespace shoal {
namespace {

int64_t UnixOf(const ASN1_TIME* time) {
  std::tm parts{};
  return ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string CommonName(const X509* certificate) {
  std::array<char, 256> name{};
  const int size = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name.data(),
                                             static_cast<int>(name.size()));
  return size < 0 ? "" : std::string(name.data(), static_cast<size_t>(size));
}

std::string TextOf(const ASN1_STRING* text) {
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                     static_cast<size_t>(ASN1_STRING_length(text)));
}

/// An address as people write it; "" where it is none.
std::string AddressText(const ASN1_OCTET_STRING* address) {
  const unsigned char* bytes = ASN1_STRING_get0_data(address);
  const int size = ASN1_STRING_length(address);
  if (size == 4) return fmt::format("{}.{}.{}.{}", bytes[0], bytes[1], bytes[2], bytes[3]);
  std::string text;
  for (int i = 0; size == 16 && i < size; i += 2) {
    text += fmt::format("{}{:x}", text.empty() ? "" : ":", bytes[i] * 256 + bytes[i + 1]);
  }
  return text;
}

}  // namespace

CertificateFacts FactsOf(const X509* certificate) {
  CertificateFacts facts{.subject = CommonName(certificate),
                         .names = {},
                         .begins_s = UnixOf(X509_get0_notBefore(certificate)),
                         .ends_s = UnixOf(X509_get0_notAfter(certificate))};
  const std::unique_ptr<GENERAL_NAMES, OpenSslFree<GENERAL_NAMES_free>> names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> addresses;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) facts.names.push_back(TextOf(name->d.dNSName));
    if (name->type == GEN_IPADD) addresses.push_back(AddressText(name->d.iPAddress));
  }
  facts.names.insert(facts.names.end(), addresses.begin(), addresses.end());
  return facts;
}

bool CertificateFacts::has_name(std::string_view name) const {
  const std::string lower = LowerCase(name);
  return std::ranges::any_of(names, [&](const std::string& one) { return LowerCase(one) == lower; });
}

absl::StatusOr<CertificateFacts> ReadCertificate(std::string_view pem, const std::string& place) {
  ASSIGN_OR_RETURN(const CertificatePtr certificate, ParseCertificate(pem, place));
  return FactsOf(certificate.get());
}

absl::StatusOr<std::string> DerOfCertificate(std::string_view pem, const std::string& place) {
  ASSIGN_OR_RETURN(const CertificatePtr certificate, ParseCertificate(pem, place));
  std::string der(static_cast<size_t>(std::max(i2d_X509(certificate.get(), nullptr), 0)), '\0');
  auto* at = reinterpret_cast<unsigned char*>(der.data());
  SHOAL_CHECK_EQ(i2d_X509(certificate.get(), &at), static_cast<int>(der.size()));
  return der;
}

absl::StatusOr<std::string> PemOfCertificate(std::string_view der, const std::string& place) {
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  const CertificatePtr certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (certificate == nullptr || bio == nullptr || PEM_write_bio_X509(bio.get(), certificate.get()) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument("{}: expected a certificate, found none", place);
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string DayOf(int64_t unix_s) {
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(static_cast<std::time_t>(unix_s)));
}

std::string ExpiryWarning(const CertificateFacts& facts, int64_t now_s) {
  const int64_t left_s = facts.ends_s - now_s;
  if (left_s > kExpiryWarningSeconds) return "";
  if (left_s <= 0)
    return fmt::format("the certificate of '{}' ended on {}", facts.subject, DayOf(facts.ends_s));
  return fmt::format("the certificate of '{}' ends in {} days, on {}", facts.subject, left_s / kSecondsPerDay,
                     DayOf(facts.ends_s));
}

}  // namespace shoal
