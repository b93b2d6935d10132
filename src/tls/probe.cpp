#include "tls/probe.h"

#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "base/status.h"
#include "tls/certificate_facts.h"
#include "tls/openssl.h"

namespace shoal {
namespace {

constexpr int kNapMs = 10;
/// After the handshake, for the peer to refuse our certificate: TLS 1.3 tells it only then.
constexpr int kVerdictSeconds = 1;

std::string Named(const TlsPeer& peer) {
  return peer.name.empty() || peer.name == peer.address
             ? fmt::format("the node at {}", peer.address)
             : fmt::format("node '{}' at {}", peer.name, peer.address);
}

enum class Driven : uint8_t { kDone, kFailed, kLate };

/// Repeats `step` until it succeeds, fails for good or time is over.
template <typename Step>
Driven Drive(SSL* ssl, std::time_t until, const Step& step) {
  while (true) {
    const int done = step();
    if (done > 0) return Driven::kDone;
    const int why = SSL_get_error(ssl, done);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return Driven::kFailed;
    if (BIO_wait(why == SSL_ERROR_WANT_READ ? SSL_get_rbio(ssl) : SSL_get_wbio(ssl), until, kNapMs) <= 0)
      return Driven::kLate;
  }
}

/// What a peer has against our certificate, by the reason of its alert; without one (gRPC hangs up without a word) by what we
/// know of it.
absl::Status Refused(const TlsPeer& peer, const TlsIdentity& own, int reason) {
  if (reason == SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED || own.facts().ends_s <= UnixSeconds()) {
    return FailedPrecondition(
        "{} refuses the certificate of '{}', which has ended (here it ends on {}): make another with shoal "
        "cert node {} "
        "--dir DIR, or set the clocks",
        Named(peer), own.name(), DayOf(own.facts().ends_s), own.name());
  }
  return FailedPrecondition(
      "{} refuses the certificate of '{}': it has another authority than '{}', or its clock is wrong; give "
      "all nodes files "
      "of one `shoal cert init`",
      Named(peer), own.name(), own.files().authority);
}

/// Why the handshake ended. Whoever hangs up on the first message of TLS does not speak it.
absl::Status HandshakeFailure(const TlsPeer& peer, const TlsIdentity& own, bool in_time) {
  const unsigned long code = ERR_peek_error();
  const int reason = code != 0 && ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
  const std::string errors = OpenSslErrors();
  switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_UNEXPECTED_MESSAGE:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
      return FailedPrecondition("{} does not speak TLS: start it with --tls-dir DIR, as this one",
                                Named(peer));
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
      return Refused(peer, own, reason);
    default:
      break;
  }
  if (!errors.empty()) return FailedPrecondition("{} ends the TLS handshake: {}", Named(peer), errors);
  if (!in_time) return Unavailable("{} ends no TLS handshake in time", Named(peer));
  return FailedPrecondition("{} does not speak TLS: start it with --tls-dir DIR, as this one", Named(peer));
}

/// What we have against the peer's certificate.
absl::Status Verdict(const TlsPeer& peer, const TlsIdentity& own, const CertificateFacts& facts,
                     long verdict) {
  if (verdict == X509_V_ERR_CERT_HAS_EXPIRED) {
    return FailedPrecondition(
        "the certificate of {} ended on {}: make another with shoal cert node {} --dir DIR, copy it there, "
        "and start that "
        "node again",
        Named(peer), DayOf(facts.ends_s), facts.subject);
  }
  if (verdict == X509_V_ERR_CERT_NOT_YET_VALID) {
    return FailedPrecondition(
        "the certificate of {} begins on {}: are both clocks right? (date; timedatectl)", Named(peer),
        DayOf(facts.begins_s));
  }
  if (verdict != X509_V_OK) {
    return FailedPrecondition(
        "the certificate of {} is not of the authority in '{}' ({}): give all nodes files of one `shoal cert "
        "init`",
        Named(peer), own.files().authority, X509_verify_cert_error_string(verdict));
  }
  const std::string wanted = TlsNameOf(peer.name);
  if (facts.has_name(wanted)) return absl::OkStatus();
  return FailedPrecondition(
      "the certificate of {} is for '{}': is that the right address? Else make one with shoal cert node {} "
      "--dir DIR and "
      "copy it there",
      Named(peer), facts.subject, wanted);
}

absl::StatusOr<ContextPtr> ContextOf(const TlsIdentity& own) {
  ContextPtr context(SSL_CTX_new(TLS_client_method()));
  const TlsIdentity::Pem pem = own.pem();
  ASSIGN_OR_RETURN(const CertificatePtr authority, ParseCertificate(pem.authority, own.files().authority));
  ASSIGN_OR_RETURN(const CertificatePtr certificate,
                   ParseCertificate(pem.certificate, own.files().certificate));
  ASSIGN_OR_RETURN(const KeyPtr key, ParsePrivateKey(pem.key, own.files().key));
  if (context == nullptr ||
      X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), authority.get()) != 1 ||
      SSL_CTX_use_certificate(context.get(), certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return Internal("TLS: {}", OpenSslErrors());
  }
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);  // It goes on, and the verdict is read.
  return context;
}

}  // namespace

absl::StatusOr<CertificateFacts> ProbeTls(const TlsPeer& peer, const TlsIdentity& own, Deadline deadline) {
  constexpr std::array<unsigned char, 3> kHttp2 = {2, 'h', '2'};
  ERR_clear_error();
  ASSIGN_OR_RETURN(const ContextPtr context, ContextOf(own));
  const SslPtr ssl(SSL_new(context.get()));
  BIO* socket = BIO_new_connect(peer.address.c_str());
  if (ssl == nullptr || socket == nullptr) return Unavailable("{}: {}", Named(peer), OpenSslErrors());
  SSL_set_bio(ssl.get(), socket, socket);
  SSL_set_connect_state(ssl.get());
  SSL_set_alpn_protos(ssl.get(), kHttp2.data(), kHttp2.size());
  const auto seconds = std::max<int64_t>(1, deadline.remaining_ms() / 1000);
  const std::time_t until = static_cast<std::time_t>(UnixSeconds()) + static_cast<std::time_t>(seconds);
  BIO_set_nbio(socket, 1);
  if (BIO_do_connect_retry(socket, static_cast<int>(seconds), kNapMs) != 1)
    return Unavailable("{} cannot be reached: {}", Named(peer), OpenSslErrors());
  const Driven shaken = Drive(ssl.get(), until, [&] { return SSL_do_handshake(ssl.get()); });
  if (shaken != Driven::kDone) return HandshakeFailure(peer, own, shaken != Driven::kLate);
  const CertificatePtr shown(SSL_get1_peer_certificate(ssl.get()));
  if (shown == nullptr) return FailedPrecondition("{} shows no certificate", Named(peer));
  const CertificateFacts facts = FactsOf(shown.get());
  RETURN_IF_ERROR(Verdict(peer, own, facts, SSL_get_verify_result(ssl.get())));
  ERR_clear_error();
  char byte = 0;
  const Driven heard = Drive(ssl.get(), static_cast<std::time_t>(UnixSeconds()) + kVerdictSeconds,
                             [&] { return SSL_read(ssl.get(), &byte, 1); });
  const unsigned long code = ERR_peek_error();
  ERR_clear_error();
  if (heard == Driven::kFailed) return Refused(peer, own, code == 0 ? 0 : ERR_GET_REASON(code));
  return facts;
}

}  // namespace shoal
