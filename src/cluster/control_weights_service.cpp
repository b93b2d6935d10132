#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "base/status.h"
#include "cluster/control_channel.h"
#include "cluster/control_weights.h"
#include "cluster/control_weights_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {

class WeightsService::Impl final : public v1::Weights::Service {
 public:
  Impl(WeightShelf& shelf, ClusterKey key) : shelf_(shelf), gate_(kWeightsService, std::move(key)) {}

  grpc::Status Skeleton(grpc::ServerContext* context, const v1::SkeletonRequest* request,
                        grpc::ServerWriter<v1::SkeletonPart>* writer) override {
    return ToGrpc(skeleton(*context, *request, *writer));
  }

  grpc::Status Hashes(grpc::ServerContext* context, const v1::ChunksRequest* request,
                      v1::HashesReply* reply) override {
    return ToGrpc(hashes(*context, *request, *reply));
  }

  grpc::Status Fetch(grpc::ServerContext* context, const v1::ChunksRequest* request,
                     grpc::ServerWriter<v1::ChunkReply>* writer) override {
    return ToGrpc(fetch(*context, *request, *writer));
  }

 private:
  struct Asked {
    std::shared_ptr<const ShelvedModel> model;
    std::vector<TensorChunk> chunks;
  };

  absl::StatusOr<Asked> read(grpc::ServerContext& context, std::string_view method,
                             const v1::ChunksRequest& request) {
    RETURN_IF_ERROR(gate_.check(context, method, request));
    Asked asked;
    ASSIGN_OR_RETURN(asked.chunks, ReadChunks(request));
    ASSIGN_OR_RETURN(asked.model, shelf_.find(request.model_hash()));
    if (asked.model->table() != request.table_hash()) {
      return FailedPrecondition("the tensors in the files here are others (hash {}, asked for {})",
                                asked.model->table(), request.table_hash());
    }
    return asked;
  }

  absl::Status skeleton(grpc::ServerContext& context, const v1::SkeletonRequest& request,
                        grpc::ServerWriter<v1::SkeletonPart>& writer) {
    RETURN_IF_ERROR(gate_.check(context, "Skeleton", request));
    ASSIGN_OR_RETURN(const auto model, shelf_.find(request.model_hash()));
    ASSIGN_OR_RETURN(const ModelSkeleton skeleton, SkeletonOf(model->checkpoint()));
    for (const v1::SkeletonPart& part : SkeletonParts(skeleton)) {
      const auto bytes = static_cast<int64_t>(part.ByteSizeLong());
      if (!shelf_.wait_to_send(bytes, [&] { return context.IsCancelled(); }) || !writer.Write(part)) {
        return Cancelled("the caller is gone");
      }
    }
    return absl::OkStatus();
  }

  absl::Status hashes(grpc::ServerContext& context, const v1::ChunksRequest& request,
                      v1::HashesReply& reply) {
    ASSIGN_OR_RETURN(const Asked asked, read(context, "Hashes", request));
    std::vector<std::optional<ContentHash128>> hashes;
    for (const TensorChunk& chunk : asked.chunks) {
      ASSIGN_OR_RETURN(hashes.emplace_back(), asked.model->hash(chunk));
    }
    PutHashes(hashes, reply);
    return absl::OkStatus();
  }

  absl::Status fetch(grpc::ServerContext& context, const v1::ChunksRequest& request,
                     grpc::ServerWriter<v1::ChunkReply>& writer) {
    ASSIGN_OR_RETURN(const Asked asked, read(context, "Fetch", request));
    for (size_t i = 0; i < asked.chunks.size(); ++i) {
      ASSIGN_OR_RETURN(const auto bytes, asked.model->bytes(asked.chunks[i]));
      v1::ChunkReply reply;
      reply.set_index(static_cast<int32_t>(i));
      if (bytes.has_value()) {
        reply.set_data(bytes->data(), bytes->size());
        // What is sent once is not read here again: the pages go back, as after packing.
        asked.model->checkpoint().drop(bytes->data(), std::ssize(*bytes));
      } else {
        reply.set_absent(true);
      }
      const auto size = static_cast<int64_t>(reply.data().size());
      if (!shelf_.wait_to_send(size, [&] { return context.IsCancelled(); }) || !writer.Write(reply)) {
        return Cancelled("the caller is gone");
      }
    }
    return absl::OkStatus();
  }

  WeightShelf& shelf_;
  ProofGate gate_;
};

WeightsService::WeightsService(WeightShelf& shelf, ClusterKey key)
    : impl_(std::make_unique<Impl>(shelf, std::move(key))) {}

WeightsService::~WeightsService() = default;

grpc::Service* WeightsService::service() { return impl_.get(); }

}  // namespace shoal
