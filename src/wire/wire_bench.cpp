// Round trip of one frame between two nodes on loopback: what a pipeline hop or an expert request costs
// before any work.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "tls/testing/identities.h"
#include "wire/echo.h"
#include "wire/grpc/endpoint.h"
#include "wire/inproc.h"

namespace shoal {
namespace {

Deadline Soon() { return Deadline::after_ms(10'000); }

struct Pair {
  virtual ~Pair() = default;
  std::unique_ptr<Transport> near;
  std::unique_ptr<Transport> far;
};

struct InprocPair : Pair {
  InprocPair() {
    near = network.open(NodeId{0});
    far = network.open(NodeId{1});
  }
  InprocNetwork network{2};
};

struct GrpcPair : Pair {
  explicit GrpcPair(std::shared_ptr<const TlsIdentity> identity = nullptr) {
    for (auto& endpoint : endpoints) {
      GrpcOptions options;
      options.key.tls = identity;
      auto started = GrpcEndpoint::start(std::move(options));
      SHOAL_CHECK(started.ok());
      endpoint = *std::move(started);
    }
    near = open(0);
    far = open(1);
    SHOAL_CHECK(near->connect(Soon()).ok());
    SHOAL_CHECK(far->connect(Soon()).ok());
  }
  ~GrpcPair() override {
    near = nullptr;
    far = nullptr;
  }
  std::unique_ptr<Transport> open(int self) {
    SessionOptions session{.session = 1, .self = NodeId{self}, .identity = {"bench/1", "hash", "f16"}};
    for (int node = 0; node < 2; ++node) {
      session.peers.push_back({NodeId{node}, "", fmt::format("127.0.0.1:{}", endpoints[node]->port())});
    }
    auto transport = endpoints[self]->open_session(std::move(session));
    SHOAL_CHECK(transport.ok());
    return *std::move(transport);
  }
  std::unique_ptr<GrpcEndpoint> endpoints[2];
};

/// The same with certificates on both ends: what encryption costs.
struct GrpcTlsPair : GrpcPair {
  GrpcTlsPair() : GrpcPair(TestAuthority().node("node")) {}
};

template <typename PairType>
void RoundTrip(benchmark::State& state) {
  PairType pair;
  const EchoNode echo(*pair.far);
  Frame frame;
  frame.payload = Buffer::copy_of(std::vector<std::byte>(static_cast<size_t>(state.range(0)), std::byte{1}));
  for (auto _ : state) SHOAL_CHECK(RoundTrip(*pair.near, NodeId{1}, frame, Soon()).ok());
  state.SetBytesProcessed(2 * state.iterations() * state.range(0));
}

BENCHMARK(RoundTrip<InprocPair>)->Arg(4 << 10)->Arg(1 << 20)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(RoundTrip<GrpcPair>)->Arg(4 << 10)->Arg(1 << 20)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(RoundTrip<GrpcTlsPair>)->Arg(4 << 10)->Arg(1 << 20)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shoal
