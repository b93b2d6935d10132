#include "cluster/control_cache.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "base/status.h"
#include "cluster/control_channel.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {
namespace {

/// A caller that reads nothing for so long is not served on.
constexpr Duration kGiveMax = std::chrono::seconds(60);

}  // namespace

class CacheService::Impl final : public v1::Caches::Service {
 public:
  Impl(CacheGiver& giver, ClusterKey key) : giver_(giver), gate_(kCacheService, std::move(key)) {}

  grpc::Status Fetch(grpc::ServerContext* context, const v1::FetchCacheRequest* request,
                     grpc::ServerWriter<v1::CacheImages>* writer) override {
    return ToGrpc(fetch(*context, *request, *writer));
  }

  grpc::Status Copies(grpc::ServerContext* context, const v1::CopiesRequest* request,
                      grpc::ServerWriter<v1::CachePiece>* writer) override {
    return ToGrpc(copies(*context, *request, *writer));
  }

 private:
  absl::Status fetch(grpc::ServerContext& context, const v1::FetchCacheRequest& asked,
                     grpc::ServerWriter<v1::CacheImages>& writer) {
    RETURN_IF_ERROR(gate_.check(context, "Fetch", asked));
    ASSIGN_OR_RETURN(const CacheRequest request, FromProto(asked));
    return giver_.give_cached(asked.model_hash(), request, Deadline::after(kGiveMax),
                              [&](std::span<const std::byte> images) -> absl::Status {
                                v1::CacheImages reply;
                                reply.set_images(images.data(), images.size());
                                if (writer.Write(reply)) return absl::OkStatus();
                                return Cancelled("the caller is gone");
                              });
  }

  absl::Status copies(grpc::ServerContext& context, const v1::CopiesRequest& asked,
                      grpc::ServerWriter<v1::CachePiece>& writer) {
    RETURN_IF_ERROR(gate_.check(context, "Copies", asked));
    return giver_.give_copies(asked.model_hash(), asked.session(), asked.after(), Deadline::after(kGiveMax),
                              [&](const CopyPiece& piece) -> absl::Status {
                                if (writer.Write(ToProto(piece))) return absl::OkStatus();
                                return Cancelled("the caller is gone");
                              });
  }

  CacheGiver& giver_;
  ProofGate gate_;
};

CacheService::CacheService(CacheGiver& giver, ClusterKey key)
    : impl_(std::make_unique<Impl>(giver, std::move(key))) {}

CacheService::~CacheService() = default;

grpc::Service* CacheService::service() { return impl_.get(); }

namespace {

class RemoteCopies final : public CopySource {
 public:
  RemoteCopies(const RemoteCache& from, uint64_t session)
      : channel_(fmt::format("'{}' at {}", from.name, from.address), kCacheService, {from.name, from.address},
                 from.key),
        model_hash_(from.model_hash),
        session_(session) {}

  absl::Status fetch(uint64_t after, Deadline deadline, TakeCopies take) override {
    v1::CopiesRequest request;
    request.set_model_hash(model_hash_);
    request.set_session(session_);
    request.set_after(after);
    absl::Status taken;
    const absl::Status status =
        channel_.call("Copies", request, deadline, [&](auto& stub, auto& context, const auto& asked) {
          const auto reader = stub.Copies(&context, asked);
          v1::CachePiece reply;
          while (taken.ok() && reader->Read(&reply)) taken = take_one(reply, take);
          if (!taken.ok()) context.TryCancel();
          return reader->Finish();
        });
    RETURN_IF_ERROR(taken);
    return status;
  }
  void cancel() override { channel_.cancel(); }

 private:
  static absl::Status take_one(const v1::CachePiece& reply, TakeCopies take) {
    ASSIGN_OR_RETURN(const CopyPiece piece, FromProto(reply));
    return take(piece);
  }

  ControlChannel<v1::Caches> channel_;
  const std::string model_hash_;
  const uint64_t session_;
};

}  // namespace

std::unique_ptr<CopySource> FollowCopies(const RemoteCache& from, uint64_t session) {
  return std::make_unique<RemoteCopies>(from, session);
}

absl::Status FetchCached(const RemoteCache& from, const CacheRequest& request, Deadline deadline,
                         TakeImages take) {
  ControlChannel<v1::Caches> channel(fmt::format("'{}' at {}", from.name, from.address), kCacheService,
                                     {from.name, from.address}, from.key);
  absl::Status taken;
  const absl::Status status = channel.call("Fetch", ToProto(request, from.model_hash), deadline,
                                           [&](auto& stub, auto& context, const auto& asked) {
                                             const auto reader = stub.Fetch(&context, asked);
                                             v1::CacheImages reply;
                                             while (taken.ok() && reader->Read(&reply))
                                               taken = take(std::as_bytes(std::span(reply.images())));
                                             if (!taken.ok()) context.TryCancel();
                                             return reader->Finish();
                                           });
  RETURN_IF_ERROR(taken);
  return status;
}

}  // namespace shoal
