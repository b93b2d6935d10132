// How connections of nodes are secured, as gRPC takes it. Included by what speaks gRPC: wire/grpc/ and cluster/control_*.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "wire/cluster_key.h"

namespace shoal {

/// A channel to a node. node: its name in plans, which its certificate must have; "" where it is unknown: then any node of
/// the cluster will do.
std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const ClusterKey& key,
                                         std::string_view node, grpc::ChannelArguments arguments);

/// Whom a port that speaks TLS lets in.
enum class Callers : uint8_t {
  kCertified,  ///< Nodes of the cluster alone.
  kAll,        ///< Those without a certificate, too; CheckCaller() tells them apart. A wrong one is refused.
};

/// For one port: a certificate that is renewed is shown from then on.
std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const ClusterKey& key, Callers callers);

/// FailedPrecondition unless the certificate that a caller showed is that of `node`; OK where callers show none.
absl::Status CheckCaller(const grpc::AuthContext& caller, const ClusterKey& key, std::string_view node);

}  // namespace shoal
