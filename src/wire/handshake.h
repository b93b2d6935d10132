// What two nodes say before the first frame of a stream: who they are, that they compute the same, that they
// know the key.
//   initiator -> hello        identity, nonce
//   responder -> hello_ack    identity, nonce, HMAC over both hellos as "acceptor"
//   initiator -> hello_proof  HMAC over both hellos as "dialler"
//   responder -> ready
// A purpose per role stops a reflected proof, both nonces stop a replayed one. Transport-free, so that it can
// be tested alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "wire/frame.h"
#include "wire/key_auth.h"

namespace shoal {

/// What must be equal on all nodes of a session, or their bits would differ.
struct SessionIdentity {
  std::string numerics_class;  ///< Which arithmetic the node does: "shoal-cpu/2".
  std::string model_hash;      ///< Of config and tensor table, as text.
  std::string kv_dtype;        ///< "f16", ...
};

/// One node's side of a handshake.
struct Hello {
  uint64_t session = 0;
  NodeId from;
  NodeId to;
  std::string from_name;  ///< For messages.
  SessionIdentity identity;
  std::string nonce;  ///< kNonceBytes.
  bool has_key = false;
};

/// Limits of handshake frames: a stranger gets no more memory than this.
inline constexpr FrameLimits kHandshakeLimits{.payload_bytes_max = 4096};

/// InvalidArgument where the frame is not a well-formed hello.
absl::StatusOr<Hello> ParseHello(const Frame& frame);

/// FailedPrecondition naming both values where the two nodes would not compute the same, Unauthenticated
/// where only one of them has a key.
absl::Status CheckHellos(const Hello& ours, const Hello& theirs);

/// The node that opens the stream.
class InitiatorHandshake {
 public:
  InitiatorHandshake(Hello ours, std::optional<KeyAuth> key);

  Frame hello() const { return hello_; }
  /// The proof to send. Errors as CheckHellos, Unauthenticated on a wrong proof, InvalidArgument on a wrong
  /// frame.
  absl::StatusOr<Frame> on_ack(const Frame& ack);

 private:
  Hello ours_;
  std::optional<KeyAuth> key_;
  Frame hello_;
};

/// The node that is dialled, once it has read the initiator's hello.
class ResponderHandshake {
 public:
  ResponderHandshake(Hello ours, std::optional<KeyAuth> key) : ours_(std::move(ours)), key_(std::move(key)) {}

  /// The ack to send. Errors as CheckHellos.
  absl::StatusOr<Frame> on_hello(const Frame& hello);
  /// The ready to send. Unauthenticated on a wrong proof, InvalidArgument on a wrong frame.
  absl::StatusOr<Frame> on_proof(const Frame& proof);

 private:
  Hello ours_;
  std::optional<KeyAuth> key_;
  std::string transcript_;
};

/// InvalidArgument unless `frame` is of `kind`.
absl::Status ExpectKind(const Frame& frame, FrameKind kind);

}  // namespace shoal
