#include "wire/handshake.h"

#include <utility>

#include "base/status.h"
#include "wire/inbox.h"
#include "wire/payload.h"

namespace shoal {
namespace {

constexpr std::string_view kInitiator = "shoal stream dialler v1";
constexpr std::string_view kResponder = "shoal stream acceptor v1";

void WriteHello(const Hello& hello, PayloadWriter& writer) {
  writer.u64(hello.session);
  writer.i32(hello.from.value);
  writer.i32(hello.to.value);
  writer.string(hello.from_name);
  writer.string(hello.identity.numerics_class);
  writer.string(hello.identity.model_hash);
  writer.string(hello.identity.kv_dtype);
  writer.string(hello.nonce);
  writer.u8(hello.has_key ? 1 : 0);
}

absl::StatusOr<Hello> ReadHello(PayloadReader& reader) {
  Hello hello;
  ASSIGN_OR_RETURN(hello.session, reader.u64("hello.session"));
  ASSIGN_OR_RETURN(hello.from.value, reader.i32("hello.from"));
  ASSIGN_OR_RETURN(hello.to.value, reader.i32("hello.to"));
  ASSIGN_OR_RETURN(hello.from_name, reader.string("hello.name"));
  ASSIGN_OR_RETURN(hello.identity.numerics_class, reader.string("hello.numerics_class"));
  ASSIGN_OR_RETURN(hello.identity.model_hash, reader.string("hello.model_hash"));
  ASSIGN_OR_RETURN(hello.identity.kv_dtype, reader.string("hello.kv_dtype"));
  ASSIGN_OR_RETURN(hello.nonce, reader.string("hello.nonce"));
  ASSIGN_OR_RETURN(const uint8_t has_key, reader.u8("hello.has_key"));
  if (hello.nonce.size() != kNonceBytes) {
    return InvalidArgument("hello.nonce: expected {} bytes, got {}", kNonceBytes, hello.nonce.size());
  }
  if (has_key > 1) return InvalidArgument("hello.has_key: expected 0 or 1, got {}", has_key);
  hello.has_key = has_key == 1;
  return hello;
}

Frame MakeFrame(FrameKind kind, NodeId sender, Buffer payload) {
  Frame frame;
  frame.header.kind = kind;
  frame.header.sender = sender;
  frame.payload = std::move(payload);
  return frame;
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string HelloText(const Hello& hello) {
  PayloadWriter writer;
  WriteHello(hello, writer);
  return std::string(AsText(writer.finish().bytes()));
}

absl::Status WrongProof(const std::string& who) {
  return Unauthenticated("{} does not know this node's key: give all nodes the same --key-file", who);
}

}  // namespace

absl::Status ExpectKind(const Frame& frame, FrameKind kind) {
  if (frame.header.kind == kind) return absl::OkStatus();
  return InvalidArgument("handshake: expected a {} frame, got {}", FrameKindText(kind),
                         FrameKindText(frame.header.kind));
}

absl::StatusOr<Hello> ParseHello(const Frame& frame) {
  RETURN_IF_ERROR(ExpectKind(frame, FrameKind::kHello));
  PayloadReader reader(frame.payload);
  ASSIGN_OR_RETURN(Hello hello, ReadHello(reader));
  RETURN_IF_ERROR(reader.finish("hello"));
  return hello;
}

absl::Status CheckHellos(const Hello& ours, const Hello& theirs) {
  const std::string us = PeerText(ours.from, ours.from_name);
  const std::string them = PeerText(theirs.from, theirs.from_name);
  if (theirs.session != ours.session) {
    return FailedPrecondition("session: {} is in {:016x}, {} in {:016x}", us, ours.session, them,
                              theirs.session);
  }
  if (theirs.to != ours.from || theirs.from != ours.to) {
    return FailedPrecondition("nodes: {} talks to node {}, {} to node {}: check the addresses of the workers",
                              us, ours.to, them, theirs.to);
  }
  if (theirs.identity.numerics_class != ours.identity.numerics_class) {
    return FailedPrecondition(
        "numerics class: {} computes as '{}', {} as '{}', which gives other bits: run one release on all "
        "nodes, "
        "with backends of one class",
        us, ours.identity.numerics_class, them, theirs.identity.numerics_class);
  }
  if (theirs.identity.model_hash != ours.identity.model_hash) {
    return FailedPrecondition(
        "model: {} holds the model with hash {}, {} with {}: give all nodes the same files", us,
        ours.identity.model_hash, them, theirs.identity.model_hash);
  }
  if (theirs.identity.kv_dtype != ours.identity.kv_dtype) {
    return FailedPrecondition("kv dtype: {} keeps its cache as {}, {} as {}", us, ours.identity.kv_dtype,
                              them, theirs.identity.kv_dtype);
  }
  if (theirs.has_key != ours.has_key) {
    return Unauthenticated("key: {} has {} key, {} has {}: start all nodes with the same --key-file, or none",
                           us, ours.has_key ? "a" : "no", them, theirs.has_key ? "one" : "none");
  }
  return absl::OkStatus();
}

InitiatorHandshake::InitiatorHandshake(Hello ours, std::optional<KeyAuth> key)
    : ours_(std::move(ours)), key_(std::move(key)) {
  ours_.has_key = key_.has_value();
  PayloadWriter writer;
  WriteHello(ours_, writer);
  hello_ = MakeFrame(FrameKind::kHello, ours_.from, writer.finish());
}

absl::StatusOr<Frame> InitiatorHandshake::on_ack(const Frame& ack) {
  RETURN_IF_ERROR(ExpectKind(ack, FrameKind::kHelloAck));
  PayloadReader reader(ack.payload);
  ASSIGN_OR_RETURN(const Hello theirs, ReadHello(reader));
  ASSIGN_OR_RETURN(const std::string proof, reader.string("hello_ack.proof"));
  RETURN_IF_ERROR(reader.finish("hello_ack"));
  RETURN_IF_ERROR(CheckHellos(ours_, theirs));
  PayloadWriter writer;
  if (key_) {
    const std::string transcript = HelloText(ours_) + HelloText(theirs);
    if (!key_->verify({kResponder, transcript}, proof))
      return WrongProof(PeerText(theirs.from, theirs.from_name));
    writer.string(key_->prove({kInitiator, transcript}));
  } else {
    writer.string("");
  }
  return MakeFrame(FrameKind::kHelloProof, ours_.from, writer.finish());
}

absl::StatusOr<Frame> ResponderHandshake::on_hello(const Frame& hello) {
  ASSIGN_OR_RETURN(const Hello theirs, ParseHello(hello));
  ours_.has_key = key_.has_value();
  ours_.to = theirs.from;
  RETURN_IF_ERROR(CheckHellos(ours_, theirs));
  transcript_ = HelloText(theirs) + HelloText(ours_);
  PayloadWriter writer;
  WriteHello(ours_, writer);
  writer.string(key_ ? key_->prove({kResponder, transcript_}) : "");
  return MakeFrame(FrameKind::kHelloAck, ours_.from, writer.finish());
}

absl::StatusOr<Frame> ResponderHandshake::on_proof(const Frame& frame) {
  RETURN_IF_ERROR(ExpectKind(frame, FrameKind::kHelloProof));
  PayloadReader reader(frame.payload);
  ASSIGN_OR_RETURN(const std::string proof, reader.string("hello_proof.proof"));
  RETURN_IF_ERROR(reader.finish("hello_proof"));
  if (key_ && !key_->verify({kInitiator, transcript_}, proof)) return WrongProof(PeerText(ours_.to, ""));
  return MakeFrame(FrameKind::kReady, ours_.from, Buffer());
}

}  // namespace shoal
