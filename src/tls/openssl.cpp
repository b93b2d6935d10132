#include "tls/openssl.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <array>

#include "base/check.h"
#include "base/status.h"

namespace shoal {

int NoPassphrase(char*, int, int, void*) { return -1; }

std::string OpenSslErrors() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(code);
    if (!text.empty()) text += ", ";
    text += reason == nullptr ? fmt::format("error {:x}", code) : reason;
  }
  return text;
}

BioPtr ReadableBio(std::string_view text) {
  BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  SHOAL_CHECK(bio != nullptr);
  return bio;
}

bool IsAddress(const std::string& text) {
  std::array<unsigned char, 16> bytes;
  return inet_pton(AF_INET, text.c_str(), bytes.data()) == 1 ||
         inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1;
}

absl::StatusOr<CertificatePtr> ParseCertificate(std::string_view pem, const std::string& place) {
  const BioPtr bio = ReadableBio(pem);
  CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, &NoPassphrase, nullptr));
  if (certificate != nullptr) return certificate;
  (void)OpenSslErrors();
  return InvalidArgument("{}: expected a certificate (-----BEGIN CERTIFICATE-----), found none", place);
}

absl::StatusOr<KeyPtr> ParsePrivateKey(std::string_view pem, const std::string& place) {
  const BioPtr bio = ReadableBio(pem);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassphrase, nullptr));
  if (key != nullptr) return key;
  (void)OpenSslErrors();
  return InvalidArgument(
      "{}: expected a private key without a passphrase (-----BEGIN PRIVATE KEY-----), found none", place);
}

}  // namespace shoal
