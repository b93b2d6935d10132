#include "tls/session.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <array>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "tls/openssl.h"

namespace shoal {
namespace {

constexpr char kHandshakeRecord = 0x16;

ContextPtr NewContext(const SSL_METHOD* method) {
  ContextPtr context(SSL_CTX_new(method));
  SHOAL_CHECK(context != nullptr);
  SHOAL_CHECK_EQ(SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION), 1);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // Idle connections keep no buffers: there may be thousands.
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  return context;
}

/// All certificates of a PEM text into `add`, which takes ownership.
template <typename Add>
int ForEachCertificate(std::string_view pem, const Add& add) {
  const BioPtr bio = ReadableBio(pem);
  int count = 0;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, &NoPassphrase, nullptr)) {
    add(CertificatePtr(certificate));
    ++count;
  }
  ERR_clear_error();  // The end of the text is an error to OpenSSL.
  return count;
}

}  // namespace

struct TlsContext::Impl {
  ContextPtr context;
};

TlsContext::TlsContext(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TlsContext::~TlsContext() = default;

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Server(const std::string& certificate,
                                                                     const std::string& key,
                                                                     const std::string& place) {
  ASSIGN_OR_RETURN(const CertificatePtr own, ParseCertificate(certificate, place));
  ASSIGN_OR_RETURN(const KeyPtr own_key, ParsePrivateKey(key, place));
  if (X509_check_private_key(own.get(), own_key.get()) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument("{}: the key is not that of the certificate", place);
  }
  ContextPtr context = NewContext(TLS_server_method());
  if (SSL_CTX_use_certificate(context.get(), own.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), own_key.get()) != 1) {
    return InvalidArgument("{}: {}", place, OpenSslErrors());
  }
  bool first = true;
  ForEachCertificate(certificate, [&](CertificatePtr one) {
    if (std::exchange(first, false)) return;
    if (SSL_CTX_add_extra_chain_cert(context.get(), one.get()) == 1) (void)one.release();
  });
  return std::shared_ptr<const TlsContext>(
      new TlsContext(std::make_unique<Impl>(Impl{.context = std::move(context)})));
}

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Client(const std::string& authority) {
  ContextPtr context = NewContext(TLS_client_method());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (authority.empty()) {
    SSL_CTX_set_default_verify_paths(context.get());
    ERR_clear_error();  // A system without certificates believes nobody.
  } else if (ForEachCertificate(authority, [&](const CertificatePtr& one) {
               X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), one.get());
             }) == 0) {
    return InvalidArgument("authority: expected a certificate (-----BEGIN CERTIFICATE-----), found none");
  }
  return std::shared_ptr<const TlsContext>(
      new TlsContext(std::make_unique<Impl>(Impl{.context = std::move(context)})));
}

struct TlsSession::Impl {
  std::shared_ptr<const TlsContext> context;
  SslPtr ssl;
  BIO* in = nullptr;   // Of ssl.
  BIO* out = nullptr;  // Of ssl.
  std::string unsent;  // Plain, until the handshake is done.
  bool broken = false;
  bool peer_closed = false;

  absl::Status failure() {
    broken = true;
    const long verdict = SSL_get_verify_result(ssl.get());
    if (verdict != X509_V_OK) {
      (void)OpenSslErrors();
      return Unauthenticated("TLS: the peer's certificate is refused: {}",
                             X509_verify_cert_error_string(verdict));
    }
    return DataLoss("TLS: {}", OpenSslErrors());
  }

  /// Encrypts what waits.
  void flush() {
    if (unsent.empty() || broken || SSL_is_init_finished(ssl.get()) == 0) return;
    size_t done = 0;
    while (done < unsent.size()) {
      size_t written = 0;
      // Into memory: it takes all there is.
      if (SSL_write_ex(ssl.get(), unsent.data() + done, unsent.size() - done, &written) != 1) break;
      done += written;
    }
    unsent.erase(0, done);
    ERR_clear_error();
  }
};

TlsSession::TlsSession(std::shared_ptr<const TlsContext> context, const std::string& server_name)
    : impl_(std::make_unique<Impl>()) {
  impl_->ssl.reset(SSL_new(context->impl_->context.get()));
  impl_->in = BIO_new(BIO_s_mem());
  impl_->out = BIO_new(BIO_s_mem());
  SHOAL_CHECK(impl_->ssl != nullptr && impl_->in != nullptr && impl_->out != nullptr);
  SSL_set_bio(impl_->ssl.get(), impl_->in, impl_->out);
  impl_->context = std::move(context);
  SSL* ssl = impl_->ssl.get();
  if (server_name.empty()) {
    SSL_set_accept_state(ssl);
    return;
  }
  SSL_set_connect_state(ssl);
  if (IsAddress(server_name)) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), server_name.c_str());
  } else {
    SSL_set1_host(ssl, server_name.c_str());
    SSL_set_tlsext_host_name(ssl, server_name.c_str());
  }
  SSL_do_handshake(ssl);  // Its first message.
  ERR_clear_error();
}

TlsSession::~TlsSession() = default;
TlsSession::TlsSession(TlsSession&&) noexcept = default;

absl::Status TlsSession::receive(std::string_view bytes, std::string& plain) {
  if (impl_->broken) return DataLoss("TLS: the connection is broken");
  SSL* ssl = impl_->ssl.get();
  ERR_clear_error();
  if (!bytes.empty()) {
    SHOAL_CHECK_EQ(BIO_write(impl_->in, bytes.data(), static_cast<int>(bytes.size())),
                   static_cast<int>(bytes.size()));
  }
  if (SSL_is_init_finished(ssl) == 0) {
    const int done = SSL_do_handshake(ssl);
    if (done != 1) {
      const int why = SSL_get_error(ssl, done);
      return why == SSL_ERROR_WANT_READ ? absl::OkStatus() : impl_->failure();
    }
  }
  impl_->flush();
  std::array<char, 16 << 10> buffer;
  while (true) {
    size_t got = 0;
    if (SSL_read_ex(ssl, buffer.data(), buffer.size(), &got) == 1) {
      plain.append(buffer.data(), got);
      continue;
    }
    const int why = SSL_get_error(ssl, 0);
    if (why == SSL_ERROR_WANT_READ) return absl::OkStatus();
    if (why == SSL_ERROR_ZERO_RETURN) {
      impl_->peer_closed = true;
      return absl::OkStatus();
    }
    return impl_->failure();
  }
}

void TlsSession::send(std::string_view plain) {
  if (impl_->broken) return;
  impl_->unsent += plain;
  impl_->flush();
}

void TlsSession::close() {
  if (impl_->broken || SSL_is_init_finished(impl_->ssl.get()) == 0) return;
  impl_->flush();
  SSL_shutdown(impl_->ssl.get());
  ERR_clear_error();
}

std::string TlsSession::take_output() {
  std::string bytes(BIO_ctrl_pending(impl_->out), '\0');
  if (bytes.empty()) return bytes;
  const int got = BIO_read(impl_->out, bytes.data(), static_cast<int>(bytes.size()));
  bytes.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return bytes;
}

bool TlsSession::established() const { return SSL_is_init_finished(impl_->ssl.get()) == 1; }
bool TlsSession::peer_closed() const { return impl_->peer_closed; }

bool BeginsTls(char first) { return first == kHandshakeRecord; }

}  // namespace shoal
