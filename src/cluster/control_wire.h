// Between the control plane's plain values and its protobuf messages. Included by control_*.cpp only.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cluster/cache_move.h"
#include "cluster/control.h"
#include "cluster/kv_buddy.h"
#include "shoal/v1/control.pb.h"

namespace shoal {

/// Metadata key of the proof that the caller knows the cluster's key.
inline constexpr char kTokenKey[] = "shoal-token";
/// Metadata key of what the next proof is to answer, at the end of every answer.
inline constexpr char kChallengeKey[] = "shoal-challenge";

inline constexpr char kWorkerService[] = "shoal.v1.Worker";
inline constexpr char kWeightsService[] = "shoal.v1.Weights";
inline constexpr char kCacheService[] = "shoal.v1.Caches";
inline constexpr char kPeerService[] = "shoal.v1.Peer";
inline constexpr char kCoordinatorService[] = "shoal.v1.Coordinator";

/// Of a model, in one call: a coordinator has a few.
inline constexpr int kModelNamesMax = 16;

/// What a proof covers: the service, the method and the request, so that none can be exchanged.
std::string TokenContext(std::string_view service, std::string_view method,
                         const google::protobuf::MessageLite& request);

v1::DescribeReply ToProto(const WorkerFacts& facts);
WorkerFacts FromProto(const v1::DescribeReply& reply);

v1::JoinRequest ToProto(const JoinOffer& offer);
/// InvalidArgument where a plan could not name it so, or an address is none.
absl::StatusOr<JoinOffer> FromProto(const v1::JoinRequest& request);
v1::JoinReply ToProto(const JoinAnswer& answer);
absl::StatusOr<JoinAnswer> FromProto(const v1::JoinReply& reply);

v1::CheckPeersRequest ToProto(const PeerCheck& check);
/// InvalidArgument where there are more peers or bytes than a cluster has use for.
absl::StatusOr<PeerCheck> FromProto(const v1::CheckPeersRequest& request);
v1::CheckPeersReply ToProto(const std::vector<PeerResult>& results);
std::vector<PeerResult> FromProto(const v1::CheckPeersReply& reply);

v1::ExamineReply ToProto(const MachineReport& report);
MachineReport FromProto(const v1::ExamineReply& reply);
/// InvalidArgument where there are too many.
absl::StatusOr<std::vector<std::string>> FromProto(const v1::ExamineRequest& request);

v1::LogRequest ToProto(const LogQuery& query);
/// What no query would ask for becomes what comes next to it.
LogQuery FromProto(const v1::LogRequest& request);
v1::LogReply ToProto(const std::vector<LoggedLine>& lines);
/// As far as `query` asked for them.
std::vector<LoggedLine> FromProto(const v1::LogReply& reply, const LogQuery& query);

v1::ExpertUseReply ToProto(const std::vector<LayerUseCount>& counts);
/// InvalidArgument where ids or sizes are none that a layer of experts has.
absl::StatusOr<std::vector<LayerUseCount>> FromProto(const v1::ExpertUseReply& reply);

v1::PrepareRequest ToProto(const PrepareOrder& order);
/// InvalidArgument where the plan is not one, or has no such node.
absl::StatusOr<PrepareOrder> FromProto(const v1::PrepareRequest& request);

v1::FetchCacheRequest ToProto(const CacheRequest& request, const std::string& model_hash);
/// InvalidArgument where it asks for more places than caches have, or for none that could be.
absl::StatusOr<CacheRequest> FromProto(const v1::FetchCacheRequest& request);

v1::OpenRequest ToProto(const OpenOrder& order);
absl::StatusOr<OpenOrder> FromProto(const v1::OpenRequest& request);
v1::FollowRequest ToProto(const FollowOrder& order);
absl::StatusOr<FollowOrder> FromProto(const v1::FollowRequest& request);

v1::OpenReply ToProto(const OpenAnswer& answer);
/// places: of the order. InvalidArgument where it lacks others than those.
absl::StatusOr<OpenAnswer> FromProto(const v1::OpenReply& reply, int64_t places);

/// The images are those of `piece`.
v1::CachePiece ToProto(const CopyPiece& piece);
/// The images are those of `piece`, and not looked at. InvalidArgument: its place could be in no cache.
absl::StatusOr<CopyPiece> FromProto(const v1::CachePiece& piece);

}  // namespace shoal
