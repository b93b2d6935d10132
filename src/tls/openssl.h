// Internal to tls/: owners of OpenSSL's objects, its errors as text, PEM to objects and back.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

template <auto kFree>
struct OpenSslFree {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using BioPtr = std::unique_ptr<BIO, OpenSslFree<BIO_free_all>>;
using CertificatePtr = std::unique_ptr<X509, OpenSslFree<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, OpenSslFree<X509_REQ_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, OpenSslFree<EVP_PKEY_free>>;
using ContextPtr = std::unique_ptr<SSL_CTX, OpenSslFree<SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, OpenSslFree<SSL_free>>;

/// The errors that OpenSSL has to tell of this thread, which forgets them.
std::string OpenSslErrors();

/// For PEM_read_bio_...
BioPtr ReadableBio(std::string_view text);

/// For PEM_read_bio_...: what is encrypted is refused rather than asked for on the terminal.
int NoPassphrase(char* buffer, int size, int writing, void* data);

/// An IPv4 or IPv6 address: certificates name those otherwise than hosts.
bool IsAddress(const std::string& text);

/// place: the file, for messages. InvalidArgument where there is none in it.
absl::StatusOr<CertificatePtr> ParseCertificate(std::string_view pem, const std::string& place);
absl::StatusOr<KeyPtr> ParsePrivateKey(std::string_view pem, const std::string& place);

}  // namespace shoal
