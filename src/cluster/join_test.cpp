// The desk where workers join, asked directly and over the network.
#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "base/random.h"
#include "base/status.h"
#include "cluster/announcer.h"
#include "cluster/enrolment.h"
#include "cluster/join_desk.h"
#include "numeric/version.h"
#include "tls/testing/identities.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

JoinOffer Offer(const std::string& name, uint64_t instance, std::vector<std::string> addresses) {
  return {.name = name, .instance = instance, .addresses = std::move(addresses)};
}

/// Machines at addresses, as the desk finds them.
class Network {
 public:
  void put(const std::string& address, uint64_t instance, const std::string& numerics_class = "n/1") {
    const std::lock_guard lock(mutex_);
    WorkerFacts& facts = machines_[address];
    facts = {
        .name = "someone", .wire_version = kWireVersion, .numerics_class = numerics_class, .version = "0"};
    facts.instance = instance;
  }
  void remove(const std::string& address) {
    const std::lock_guard lock(mutex_);
    machines_.erase(address);
  }
  JoinDesk::Options options() {
    return {.name = "coordinator",
            .numerics_class = "n/1",
            .insecure = true,
            .ask = [this](const std::string& address, const std::string&,
                          Deadline) -> absl::StatusOr<WorkerFacts> {
              const std::lock_guard lock(mutex_);
              const auto found = machines_.find(address);
              if (found == machines_.end()) return Unavailable("connection refused");
              return found->second;
            }};
  }
  std::unique_ptr<JoinDesk> desk() { return *JoinDesk::Start(options()); }

 private:
  std::mutex mutex_;
  std::map<std::string, WorkerFacts> machines_;
};

TEST(JoinDesk, TakesTheFirstAddressAtWhichThisVeryProcessAnswers) {
  Network network;
  network.put("10.0.0.2:1", 8);  // Another process: the same address on another network.
  network.put("10.0.1.2:1", 7);
  network.put("10.0.2.2:1", 7);
  const auto desk = network.desk();
  const auto answer = desk->join(Offer("w", 7, {"10.0.9.2:1", "10.0.0.2:1", "10.0.1.2:1", "10.0.2.2:1"}), "");
  ASSERT_TRUE(answer.ok()) << Message(answer.status());
  EXPECT_EQ(answer->address, "10.0.1.2:1");
  EXPECT_EQ(desk->roster().find("w")->address, "10.0.1.2:1");
}

TEST(JoinDesk, TriesWhereTheCallCameFromLast) {
  Network network;
  network.put("192.0.2.1:1", 7);
  const auto desk = network.desk();
  JoinOffer offer = Offer("w", 7, {"10.0.0.2:1"});
  EXPECT_FALSE(desk->join(offer, "192.0.2.1").ok());
  offer.port = 1;
  const auto answer = desk->join(offer, "192.0.2.1");
  ASSERT_TRUE(answer.ok()) << Message(answer.status());
  EXPECT_EQ(answer->address, "192.0.2.1:1");
}

TEST(JoinDesk, AWorkerThatItCannotReachIsToldEachAddressAndWhatToDo) {
  Network network;
  const auto desk = network.desk();
  const auto answer = desk->join(Offer("w", 7, {"10.0.0.2:1", "10.0.0.3:1"}), "");
  EXPECT_TRUE(absl::IsUnavailable(answer.status()));
  EXPECT_THAT(Message(answer.status()), AllOf(HasSubstr("10.0.0.2:1: connection refused"),
                                              HasSubstr("10.0.0.3:1"), HasSubstr("--advertise")));
  EXPECT_FALSE(desk->roster().find("w").has_value());
}

TEST(JoinDesk, TheSecondOfOneNameIsRefusedByTheFirstsAddressForAsLongAsThatIsThere) {
  Network network;
  network.put("10.0.0.2:1", 7);
  network.put("10.0.0.3:1", 8);
  const auto desk = network.desk();
  ASSERT_TRUE(desk->join(Offer("w", 7, {"10.0.0.2:1"}), "").ok());
  const auto second = desk->join(Offer("w", 8, {"10.0.0.3:1"}), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(Message(second.status()), AllOf(HasSubstr("10.0.0.2:1"), HasSubstr("--name")));
  EXPECT_EQ(desk->roster().find("w")->address, "10.0.0.2:1");
  network.remove("10.0.0.2:1");
  EXPECT_TRUE(desk->join(Offer("w", 8, {"10.0.0.3:1"}), "").ok());
  EXPECT_EQ(desk->roster().find("w")->address, "10.0.0.3:1");
}

TEST(JoinDesk, AProcessThatWasRestartedOnItsPortIsTakenAtOnce) {
  Network network;
  network.put("10.0.0.2:1", 7);
  const auto desk = network.desk();
  ASSERT_TRUE(desk->join(Offer("w", 7, {"10.0.0.2:1"}), "").ok());
  network.put("10.0.0.2:1", 8);
  EXPECT_TRUE(desk->join(Offer("w", 8, {"10.0.0.2:1"}), "").ok());
}

TEST(JoinDesk, AMemberThatMovesIsFollowed) {
  Network network;
  network.put("10.0.0.2:1", 7);
  const auto desk = network.desk();
  ASSERT_TRUE(desk->join(Offer("w", 7, {"10.0.0.2:1"}), "").ok());
  network.put("10.9.0.2:1", 7);
  ASSERT_TRUE(desk->join(Offer("w", 7, {"10.9.0.2:1"}), "").ok());
  EXPECT_EQ(desk->roster().find("w")->address, "10.9.0.2:1");
}

TEST(JoinDesk, AnotherBuildIsRefusedByBothVersions) {
  Network network;
  network.put("10.0.0.2:1", 7, "n/2");
  const auto answer = network.desk()->join(Offer("w", 7, {"10.0.0.2:1"}), "");
  EXPECT_TRUE(absl::IsFailedPrecondition(answer.status()));
  EXPECT_THAT(Message(answer.status()), AllOf(HasSubstr("'n/2'"), HasSubstr("'n/1'")));
}

TEST(JoinDesk, WithoutAKeyNobodyIsDialledBeyondThisMachine) {
  Network network;
  network.put("10.0.0.2:1", 7);
  JoinDesk::Options options = network.options();
  options.insecure = false;
  const auto desk = *JoinDesk::Start(std::move(options));
  EXPECT_THAT(Message(desk->join(Offer("w", 7, {"10.0.0.2:1"}), "").status()), HasSubstr("without a key"));
  JoinDesk::Options open = network.options();
  open.insecure = false;
  open.listen = "0.0.0.0:0";
  EXPECT_THAT(Message(JoinDesk::Start(std::move(open)).status()), HasSubstr("--join-listen"));
}

/// Until it is so, for a while.
template <typename Condition>
bool Eventually(Condition condition) {
  const Deadline deadline = Deadline::after(seconds(20));
  while (!condition()) {
    if (deadline.expired()) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

struct Desk {
  explicit Desk(Network& network, std::optional<KeyAuth> key, const std::string& listen = "127.0.0.1:0") {
    JoinDesk::Options options = network.options();
    options.listen = listen;
    options.key = std::move(key);
    options.rules.lease = milliseconds(150);
    desk = *JoinDesk::Start(std::move(options));
  }
  bool has(const std::string& name) const { return desk->roster().find(name).has_value(); }
  std::string address() const { return fmt::format("127.0.0.1:{}", desk->port()); }

  std::unique_ptr<JoinDesk> desk;
};

TEST(Announcer, OffersUntilItIsTakenAgainAfterARestartOfTheCoordinatorAndSaysGoodbye) {
  Network network;
  const auto key = *KeyAuth::from_key("a key of more than sixteen bytes");
  auto coordinator = std::make_optional<Desk>(network, key);
  const std::string address = coordinator->address();
  std::atomic<int> offers = 0;
  Announcer announcer({.find = [&](Deadline) { return std::vector<std::string>{address}; },
                       .key = key,
                       .offer =
                           [&](const std::string&) {
                             ++offers;
                             return Offer("w", 7, {"10.0.0.2:1"});
                           }});
  EXPECT_TRUE(Eventually([&] { return offers >= 2; }));  // It is not to be reached yet.
  EXPECT_FALSE(coordinator->has("w"));
  network.put("10.0.0.2:1", 7);
  EXPECT_TRUE(Eventually([&] { return coordinator->has("w"); }));
  coordinator.reset();
  coordinator.emplace(network, key, address);
  EXPECT_TRUE(Eventually([&] { return coordinator->has("w"); }));
  announcer.leave(Deadline::after(seconds(5)));
  EXPECT_FALSE(coordinator->has("w"));
}

/// A folder that is gone with the test.
struct Folder {
  Folder() : path(fmt::format("{}/shoal-enrol-{:016x}", testing::TempDir(), EntropySeed())) {}
  ~Folder() { std::filesystem::remove_all(path); }
  const std::string path;
};

TEST(Enrolment, WhoHasTheKeyGetsACertificateOfItsNameButNobodyElsesPart) {
  Network network;
  network.put("10.0.0.2:1", 7);
  TestAuthority authority;
  const Folder folder;
  const auto key = *KeyAuth::from_key("a key of more than sixteen bytes");
  JoinDesk::Options options = network.options();
  options.listen = "127.0.0.1:0";
  options.key = ClusterKey(key, authority.node("coordinator"));
  options.authority = authority.key();
  const auto desk = *JoinDesk::Start(std::move(options));
  const std::string address = fmt::format("127.0.0.1:{}", desk->port());
  const auto soon = [] { return Deadline::after(seconds(10)); };

  Enrolment enrolment({.name = "w",
                       .folder = folder.path,
                       .authority = authority.key().certificate,
                       .key = key,
                       .find = [&](Deadline) { return std::vector<std::string>{address}; }});
  const auto identity = enrolment.identity(soon());
  ASSERT_TRUE(identity.ok()) << Message(identity.status());
  EXPECT_EQ((*identity)->name(), "w");
  EXPECT_EQ((*enrolment.identity(soon()))->certificate(), (*identity)->certificate()) << "it is kept";
  JoinClient worker(address, ClusterKey(key, *identity));
  ASSERT_TRUE(worker.join(Offer("w", 7, {"10.0.0.2:1"}), soon()).ok());
  const std::string request = MakeCertificateRequest("w").certificate;
  EXPECT_TRUE(worker.enrol("w", request, soon()).ok()) << "a node renews its own";

  const auto believing = TlsIdentity::Believing(authority.key().certificate);
  JoinClient stranger(address, ClusterKey(key, believing));
  EXPECT_THAT(Message(stranger.enrol("w", request, soon()).status()), HasSubstr("is a member already"));
  EXPECT_THAT(Message(stranger.enrol("coordinator", request, soon()).status()),
              HasSubstr("is the name of the coordinator"));
  for (const char* name : {"W", "Coordinator"}) {
    EXPECT_THAT(Message(stranger.enrol(name, request, soon()).status()), HasSubstr("upper and lower case"));
  }
  for (const char* name : {kAnyNodeName, "w."})
    EXPECT_TRUE(absl::IsInvalidArgument(worker.enrol(name, request, soon()).status())) << name;
  EXPECT_TRUE(absl::IsInvalidArgument(stranger.enrol("v", "no request", soon()).status()));
  // Nothing else is open to who has no certificate, or another node's.
  for (JoinClient* other : {&stranger, &worker}) {
    EXPECT_THAT(Message(other->join(Offer("v", 8, {"10.0.0.2:1"}), soon()).status()),
                HasSubstr("calls the caller 'v'"));
    EXPECT_FALSE(other->leave("v", 8, soon()).ok());
  }
  JoinClient guesser(address, ClusterKey(*KeyAuth::from_key("some other key of the same sort"), believing));
  EXPECT_TRUE(absl::IsUnauthenticated(guesser.enrol("v", request, soon()).status()));
}

TEST(Enrolment, WithoutAnAuthoritysKeyNoPortIsOpenToWhoHasNoCertificate) {
  Network network;
  TestAuthority authority;
  const auto key = *KeyAuth::from_key("a key of more than sixteen bytes");
  JoinDesk::Options options = network.options();
  options.listen = "127.0.0.1:0";
  options.key = ClusterKey(key, authority.node("coordinator"));
  const auto desk = *JoinDesk::Start(std::move(options));
  JoinClient stranger(fmt::format("127.0.0.1:{}", desk->port()),
                      ClusterKey(key, TlsIdentity::Believing(authority.key().certificate)));
  const auto refused =
      stranger.enrol("w", MakeCertificateRequest("w").certificate, Deadline::after(seconds(2)));
  EXPECT_TRUE(absl::IsUnavailable(refused.status()) || absl::IsDeadlineExceeded(refused.status()))
      << Message(refused.status());
}

TEST(Enrolment, AnotherCertificateIsAskedForInTime) {
  constexpr int64_t kDay = 86400;
  const auto wants = [](int64_t days, int64_t left) {
    return WantsRenewal({.subject = "w", .names = {}, .begins_s = 0, .ends_s = days * kDay},
                        (days - left) * kDay);
  };
  EXPECT_FALSE(wants(90, 31));
  EXPECT_TRUE(wants(90, 29));
  EXPECT_FALSE(wants(730, 250));
  EXPECT_TRUE(wants(730, 240));
  EXPECT_FALSE(wants(4, 3)) << "a short life is not all renewal";
  EXPECT_TRUE(wants(4, 1));
}

TEST(Announcer, OneWithAnotherKeyOrNoneIsNotTaken) {
  Network network;
  network.put("10.0.0.2:1", 7);
  Desk coordinator(network, *KeyAuth::from_key("a key of more than sixteen bytes"));
  for (const auto& key :
       {std::optional<KeyAuth>(), std::optional(*KeyAuth::from_key("some other key of the same sort"))}) {
    JoinClient client(coordinator.address(), key);
    const auto answer = client.join(Offer("w", 7, {"10.0.0.2:1"}), Deadline::after(seconds(5)));
    EXPECT_TRUE(absl::IsUnauthenticated(answer.status())) << Message(answer.status());
    EXPECT_TRUE(absl::IsUnauthenticated(client.leave("w", 7, Deadline::after(seconds(5)))));
  }
  EXPECT_FALSE(coordinator.has("w"));
}

}  // namespace
}  // namespace shoal
