#include "tls/authority.h"

#include <openssl/bn.h>
#include <openssl/pem.h>

#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "base/status.h"
#include "tls/certificate.h"
#include "tls/certificate_facts.h"
#include "tls/openssl.h"
#include "tls/private_file.h"

namespace shoal {
namespace {

constexpr size_t kNameBytesMax = 63;
constexpr size_t kHostBytesMax = 253;
/// For nodes whose clocks are a little behind.
constexpr int64_t kBeginsBefore = 3600;
constexpr int kSerialBits = 127;

bool IsHostText(std::string_view text, size_t bytes_max) {
  const auto usable = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  return !text.empty() && text.size() <= bytes_max && std::ranges::all_of(text, usable);
}

absl::Status CheckDays(int days) {
  if (days >= 1 && days <= kDaysMax) return absl::OkStatus();
  return InvalidArgument("certificate: expected 1 to {} days, got {}", kDaysMax, days);
}

std::string PemOf(const BioPtr& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string CertificatePem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  SHOAL_CHECK(bio != nullptr && PEM_write_bio_X509(bio.get(), certificate) == 1);
  return PemOf(bio);
}

std::string KeyPem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  SHOAL_CHECK(bio != nullptr &&
              PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  return PemOf(bio);
}

CertifiedKey ToPem(X509* certificate, EVP_PKEY* key) { return {CertificatePem(certificate), KeyPem(key)}; }

void SetSerial(X509* certificate) {
  const std::unique_ptr<BIGNUM, OpenSslFree<BN_free>> serial(BN_new());
  SHOAL_CHECK(serial != nullptr &&
              BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate)) != nullptr);
}

/// A certificate that lacks issuer, extensions and signature.
CertificatePtr Begin(EVP_PKEY* key, const std::string& name, int days, int64_t now_s) {
  CertificatePtr certificate(X509_new());
  SHOAL_CHECK(certificate != nullptr);
  SHOAL_CHECK_EQ(X509_set_version(certificate.get(), X509_VERSION_3), 1);
  SetSerial(certificate.get());
  SHOAL_CHECK(ASN1_TIME_set(X509_getm_notBefore(certificate.get()), now_s - kBeginsBefore) != nullptr);
  SHOAL_CHECK(ASN1_TIME_set(X509_getm_notAfter(certificate.get()), now_s + days * kSecondsPerDay) != nullptr);
  SHOAL_CHECK_EQ(X509_set_pubkey(certificate.get(), key), 1);
  SHOAL_CHECK_EQ(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                                            reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0),
                 1);
  return certificate;
}

/// value: in the notation of OpenSSL's configuration; nothing of it may come from outside unchecked.
void AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, OpenSslFree<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  SHOAL_CHECK(extension != nullptr);
  SHOAL_CHECK_EQ(X509_add_ext(certificate, extension.get(), -1), 1);
}

/// Some authorities have no identifier of their key: they are found by name alone.
void NameIssuersKey(X509* certificate, X509* issuer) {
  const std::unique_ptr<ASN1_OCTET_STRING, OpenSslFree<ASN1_OCTET_STRING_free>> identifier(
      static_cast<ASN1_OCTET_STRING*>(
          X509_get_ext_d2i(issuer, NID_subject_key_identifier, nullptr, nullptr)));
  if (identifier != nullptr) AddExtension(certificate, issuer, NID_authority_key_identifier, "keyid");
  (void)OpenSslErrors();
}

/// With SHA-256, but for keys that have a hash of their own, as Ed25519. InvalidArgument: the key signs no certificates.
absl::Status Sign(X509* certificate, EVP_PKEY* key) {
  const bool own = EVP_PKEY_is_a(key, "ED25519") == 1 || EVP_PKEY_is_a(key, "ED448") == 1;
  if (X509_sign(certificate, key, own ? nullptr : EVP_sha256()) > 0) return absl::OkStatus();
  return InvalidArgument("the authority's key cannot sign certificates ({})", OpenSslErrors());
}

/// The certificate of a node's key.
absl::StatusOr<CertificatePtr> Certify(const CertifiedKey& authority, EVP_PKEY* key,
                                       const NodeCertificateOrder& order) {
  RETURN_IF_ERROR(CheckDays(order.days));
  if (!IsCertifiableName(order.name)) {
    return InvalidArgument(
        "certificate: expected a name of letters, digits, '-', '_' and '.', at most {} of them, got '{}'",
        kNameBytesMax, order.name);
  }
  std::string names = fmt::format("DNS:{},DNS:{}", order.name, kAnyNodeName);
  for (const std::string& address : order.addresses) {
    if (!IsAddress(address) && !IsHostText(address, kHostBytesMax))
      return InvalidArgument("certificate: '{}' is neither a host's name nor an IP address", address);
    names += fmt::format(",{}:{}", IsAddress(address) ? "IP" : "DNS", address);
  }
  ASSIGN_OR_RETURN(const CertificatePtr issuer, ParseCertificate(authority.certificate, "the authority"));
  ASSIGN_OR_RETURN(const KeyPtr issuer_key, ParsePrivateKey(authority.key, "the authority's key"));
  if (X509_check_private_key(issuer.get(), issuer_key.get()) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument("the authority's key is not that of its certificate");
  }
  if (X509_check_ca(issuer.get()) != 1) {
    return InvalidArgument(
        "the certificate of '{}' is not that of an authority: expected CA:TRUE (isCA: true of cert-manager), "
        "and "
        "a key that may sign certificates",
        FactsOf(issuer.get()).subject);
  }
  if (X509_self_signed(issuer.get(), 0) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument(
        "the authority '{}' is signed by another: expected one that signed itself, as nodes trust it alone",
        FactsOf(issuer.get()).subject);
  }
  CertificatePtr certificate = Begin(key, order.name, order.days, order.now_s);
  // A node whose authority has ended is believed by nobody.
  if (ASN1_TIME_compare(X509_get0_notAfter(issuer.get()), X509_get0_notAfter(certificate.get())) < 0)
    SHOAL_CHECK_EQ(X509_set1_notAfter(certificate.get(), X509_get0_notAfter(issuer.get())), 1);
  SHOAL_CHECK_EQ(X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get())), 1);
  AddExtension(certificate.get(), issuer.get(), NID_basic_constraints, "critical,CA:FALSE");
  AddExtension(certificate.get(), issuer.get(), NID_key_usage, "critical,digitalSignature");
  AddExtension(certificate.get(), issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth");
  AddExtension(certificate.get(), issuer.get(), NID_subject_alt_name, names);
  NameIssuersKey(certificate.get(), issuer.get());
  RETURN_IF_ERROR(Sign(certificate.get(), issuer_key.get()));
  return certificate;
}

}  // namespace

bool IsCertifiableName(std::string_view name) { return IsHostText(name, kNameBytesMax); }

absl::StatusOr<CertifiedKey> MakeAuthority(int days, int64_t now_s) {
  RETURN_IF_ERROR(CheckDays(days));
  const KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  SHOAL_CHECK(key != nullptr);
  const CertificatePtr certificate = Begin(key.get(), "shoal cluster authority", days, now_s);
  SHOAL_CHECK_EQ(X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get())), 1);
  AddExtension(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  AddExtension(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  AddExtension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash");
  SHOAL_CHECK(X509_sign(certificate.get(), key.get(), EVP_sha256()) > 0);
  return ToPem(certificate.get(), key.get());
}

absl::StatusOr<CertifiedKey> MakeNodeCertificate(const CertifiedKey& authority,
                                                 const NodeCertificateOrder& order) {
  const KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  SHOAL_CHECK(key != nullptr);
  ASSIGN_OR_RETURN(const CertificatePtr certificate, Certify(authority, key.get(), order));
  return ToPem(certificate.get(), key.get());
}

CertifiedKey MakeCertificateRequest(const std::string& name) {
  const KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  const RequestPtr request(X509_REQ_new());
  SHOAL_CHECK(key != nullptr && request != nullptr);
  SHOAL_CHECK_EQ(X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8,
                                            reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0),
                 1);
  SHOAL_CHECK_EQ(X509_REQ_set_pubkey(request.get(), key.get()), 1);
  SHOAL_CHECK(X509_REQ_sign(request.get(), key.get(), EVP_sha256()) > 0);
  const BioPtr text(BIO_new(BIO_s_mem()));
  SHOAL_CHECK(text != nullptr && PEM_write_bio_X509_REQ(text.get(), request.get()) == 1);
  return {PemOf(text), KeyPem(key.get())};
}

absl::StatusOr<std::string> SignCertificateRequest(const CertifiedKey& authority, std::string_view request,
                                                   const NodeCertificateOrder& order) {
  const BioPtr text = ReadableBio(request);
  const RequestPtr read(PEM_read_bio_X509_REQ(text.get(), nullptr, NoPassphrase, nullptr));
  if (read == nullptr) return InvalidArgument("certificate request: not PEM ({})", OpenSslErrors());
  EVP_PKEY* const key = X509_REQ_get0_pubkey(read.get());
  char group[32] = "";
  size_t length = 0;
  if (key == nullptr || EVP_PKEY_is_a(key, "EC") != 1 ||
      EVP_PKEY_get_group_name(key, group, sizeof group, &length) != 1 ||
      std::string_view(group) != "prime256v1") {
    (void)OpenSslErrors();
    return InvalidArgument("certificate request: expected a key of P-256");
  }
  if (X509_REQ_verify(read.get(), key) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument("certificate request: it is not signed by its own key");
  }
  ASSIGN_OR_RETURN(const CertificatePtr certificate, Certify(authority, key, order));
  return CertificatePem(certificate.get());
}

absl::StatusOr<CertifiedKey> ReadAuthority(const std::string& folder) {
  CertifiedKey authority;
  ASSIGN_OR_RETURN(authority.key, ReadPrivateFile(folder + "/ca.key"));
  ASSIGN_OR_RETURN(authority.certificate, ReadTextFile(folder + "/ca.pem", kPemBytesMax));
  return authority;
}

}  // namespace shoal
