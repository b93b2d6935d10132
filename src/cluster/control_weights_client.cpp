#include <grpcpp/grpcpp.h>

#include <utility>

#include "base/status.h"
#include "cluster/control_channel.h"
#include "cluster/control_weights.h"
#include "cluster/control_weights_wire.h"
#include "shoal/v1/control.grpc.pb.h"

namespace shoal {
namespace {

/// Far beyond what a request takes at the slowest --weights-rate. A source that is gone is found by keep-alive.
constexpr int64_t kCallMs = 3'600'000;

/// Of another node, that it has no memory or no threads is no reason to give up everything.
absl::Status AsAway(const absl::Status& status) {
  return absl::IsResourceExhausted(status) ? Unavailable("{}", Message(status)) : status;
}

}  // namespace

class RemoteShelf::Impl : public ControlChannel<v1::Weights> {
 public:
  explicit Impl(Options options)
      : ControlChannel(fmt::format("'{}' at {}", options.name, options.address), kWeightsService,
                       {options.name, options.address}, options.key),
        options_(std::move(options)) {}

  const std::string& name() const { return options_.name; }
  void set_table(std::string table) { table_ = std::move(table); }

  absl::StatusOr<ModelSkeleton> skeleton() {
    v1::SkeletonRequest asked;
    asked.set_model_hash(options_.model_hash);
    ModelSkeleton skeleton;
    absl::Status sound;
    const absl::Status status = call("Skeleton", asked, Deadline::after_ms(kCallMs),
                                     [&](auto& stub, auto& context, const auto& request) {
                                       const auto reader = stub.Skeleton(&context, request);
                                       v1::SkeletonPart part;
                                       while (sound.ok() && reader->Read(&part))
                                         sound = AddPart(part, skeleton);
                                       if (!sound.ok()) context.TryCancel();
                                       return reader->Finish();
                                     });
    if (sound.ok() && status.ok()) sound = CheckSkeleton(skeleton);
    RETURN_IF_ERROR(Annotate(sound, fmt::format("'{}' at {}", name(), address())));
    RETURN_IF_ERROR(AsAway(status));
    return skeleton;
  }

  absl::StatusOr<std::vector<std::optional<ContentHash128>>> hashes(std::span<const TensorChunk> chunks) {
    v1::HashesReply reply;
    RETURN_IF_ERROR(AsAway(call("Hashes", request_for(chunks), Deadline::after_ms(kCallMs),
                                [&](auto& stub, auto& context, const auto& request) {
                                  return stub.Hashes(&context, request, &reply);
                                })));
    return ReadHashes(reply, chunks.size());
  }

  absl::Status fetch(std::span<const TensorChunk> chunks, Take take) {
    absl::Status taken;
    const absl::Status status = call(
        "Fetch", request_for(chunks), Deadline::after_ms(kCallMs),
        [&](auto& stub, auto& context, const auto& request) {
          const auto reader = stub.Fetch(&context, request);
          v1::ChunkReply reply;
          while (taken.ok() && reader->Read(&reply)) {
            const auto bytes = std::as_bytes(std::span(reply.data()));
            const auto index = static_cast<size_t>(reply.index());  // One below zero becomes one beyond all.
            taken = reply.absent() ? take(index, std::nullopt) : take(index, bytes);
          }
          if (!taken.ok()) context.TryCancel();
          return reader->Finish();
        });
    RETURN_IF_ERROR(taken);
    return AsAway(status);
  }

 private:
  v1::ChunksRequest request_for(std::span<const TensorChunk> chunks) const {
    v1::ChunksRequest request;
    request.set_model_hash(options_.model_hash);
    request.set_table_hash(table_);
    PutChunks(chunks, request);
    return request;
  }

  const Options options_;
  std::string table_;
};

RemoteShelf::RemoteShelf(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

RemoteShelf::~RemoteShelf() = default;

absl::StatusOr<ModelSkeleton> RemoteShelf::skeleton() { return impl_->skeleton(); }

void RemoteShelf::set_table(std::string table) { impl_->set_table(std::move(table)); }

const std::string& RemoteShelf::name() const { return impl_->name(); }

absl::StatusOr<std::vector<std::optional<ContentHash128>>> RemoteShelf::hashes(
    std::span<const TensorChunk> chunks) {
  return impl_->hashes(chunks);
}

absl::Status RemoteShelf::fetch(std::span<const TensorChunk> chunks, Take take) {
  return impl_->fetch(chunks, take);
}

void RemoteShelf::cancel() { impl_->cancel(); }

}  // namespace shoal
