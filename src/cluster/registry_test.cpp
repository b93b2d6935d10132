// One suite for every kind of registry. etcd, D-Bus and Avahi's daemon are Debian's, started here in a network namespace of
// this process's own; tests of those that are not there, or that may not have a namespace, are skipped.
#include "cluster/registry.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kEtcdAddress[] = "127.0.0.1:23790";

Deadline Soon() { return Deadline::after(std::chrono::seconds(10)); }

bool Run(const std::string& command) { return std::system((command + " > /dev/null 2>&1").c_str()) == 0; }

/// The daemons that registries talk to.
class Daemons : public ::testing::Environment {
 public:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / fmt::format("shoal-registry-{}", getpid());
    std::filesystem::create_directories(folder_);
    isolated_ = unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 &&
                mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 && Run("ip link set lo up") &&
                Run("ip link add shoal0 type veth peer name shoal1") &&
                Run("ip addr add 10.231.0.1/24 dev shoal0") && Run("ip link set shoal0 up") &&
                Run("ip link set shoal1 up");
    if (!isolated_) return;
    etcd_ = start({"etcd", "--data-dir", folder_ / "etcd", "--listen-client-urls",
                   std::string("http://") + kEtcdAddress, "--advertise-client-urls",
                   std::string("http://") + kEtcdAddress, "--listen-peer-urls", "http://127.0.0.1:23791",
                   "--initial-advertise-peer-urls", "http://127.0.0.1:23791", "--initial-cluster",
                   "default=http://127.0.0.1:23791"});
    start_avahi();
  }
  void TearDown() override {
    for (const pid_t pid : pids_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  bool etcd() const { return isolated_ && etcd_; }
  bool avahi() const { return isolated_ && avahi_; }

 private:
  bool start(const std::vector<std::string>& words) {
    if (!Run("command -v " + words[0])) return false;
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<char*> argv;
      for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      if (std::freopen((folder_ / (words[0].substr(words[0].rfind('/') + 1) + ".log")).c_str(), "w",
                       stderr) != nullptr)
        dup2(2, 1);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    pids_.push_back(pid);
    return true;
  }
  void start_avahi() {
    const std::string bus = folder_ / "bus";
    std::ofstream(folder_ / "bus.conf")
        << "<busconfig><type>system</type><listen>unix:path=" << bus
        << "</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>"
           "<allow send_destination=\"*\" eavesdrop=\"true\"/><allow "
           "receive_sender=\"*\"/></policy></busconfig>";
    std::ofstream(folder_ / "avahi.conf")
        << "[server]\nhost-name=shoal-test\nuse-ipv6=no\nallow-interfaces=shoal0\n[rlimits]\n";
    std::error_code ignored;
    std::filesystem::create_directories("/run/avahi-daemon", ignored);
    setenv("DBUS_SYSTEM_BUS_ADDRESS", ("unix:path=" + bus).c_str(), 1);
    if (mount("tmpfs", "/run/avahi-daemon", "tmpfs", 0, nullptr) != 0) return;
    if (!start({"dbus-daemon", "--nofork", "--config-file", folder_ / "bus.conf"})) return;
    const Deadline deadline = Soon();
    while (!std::filesystem::exists(bus) && !deadline.expired())
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    avahi_ = start({"/usr/sbin/avahi-daemon", "-f", folder_ / "avahi.conf", "--no-drop-root", "--no-chroot",
                    "--no-rlimits"});
  }

  std::filesystem::path folder_;
  bool isolated_ = false;
  bool etcd_ = false;
  bool avahi_ = false;
  std::vector<pid_t> pids_;
};

Daemons* const daemons = static_cast<Daemons*>(::testing::AddGlobalTestEnvironment(new Daemons));

struct Kind {
  std::string name;
  std::string text;  ///< Of OpenRegistry().
  std::function<bool()> there;
};

void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

class RegistryTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (!GetParam().there())
      GTEST_SKIP() << GetParam().name << " is not here (./dev setup), or no namespace may be made";
  }
  static std::unique_ptr<Registry> open() { return *OpenRegistry(GetParam().text); }
  /// Until the daemon is up.
  static absl::Status publish(Registry& registry, const Rendezvous& self) {
    const Deadline deadline = Soon();
    absl::Status status;
    do {
      status = registry.publish(self, Deadline::after(std::chrono::seconds(3)));
      if (status.ok()) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    } while (!deadline.expired());
    return status;
  }
  static std::vector<Rendezvous> found(Registry& registry) {
    const auto list = registry.find(Soon());
    EXPECT_TRUE(list.ok()) << Message(list.status());
    return list.value_or(std::vector<Rendezvous>());
  }
};

TEST_P(RegistryTest, WhatOnePublishesAnotherFindsUntilItIsWithdrawn) {
  const auto coordinator = open();
  const auto worker = open();
  const Rendezvous self{"home", {"10.0.0.1:50050", "[fd00::1]:50050"}};
  ASSERT_TRUE(publish(*coordinator, self).ok()) << Message(publish(*coordinator, self));
  EXPECT_THAT(found(*worker), ElementsAre(self));
  EXPECT_TRUE(coordinator->publish(self, Soon()).ok());  // Again, as a lease asks for.
  EXPECT_THAT(found(*worker), ElementsAre(self));
  const Rendezvous moved{"home", {"10.0.0.2:50050"}};
  ASSERT_TRUE(coordinator->publish(moved, Soon()).ok());
  EXPECT_THAT(found(*worker), Contains(moved));
  coordinator->withdraw(Soon());
  const Deadline deadline = Soon();  // Caches of the local network keep it for a second.
  while (!found(*worker).empty() && !deadline.expired()) {
  }
  EXPECT_THAT(found(*worker), IsEmpty());
}

TEST_P(RegistryTest, SeveralCoordinatorsAreToldApart) {
  const auto first = open();
  const auto second = open();
  ASSERT_TRUE(publish(*first, {"attic", {"10.0.0.1:1"}}).ok());
  ASSERT_TRUE(publish(*second, {"cellar", {"10.0.0.2:1"}}).ok());
  EXPECT_THAT(found(*open()),
              ElementsAre(Field(&Rendezvous::name, "attic"), Field(&Rendezvous::name, "cellar")));
  first->withdraw(Soon());
  second->withdraw(Soon());
}

INSTANTIATE_TEST_SUITE_P(Daemons, RegistryTest,
                         ::testing::Values(Kind{"etcd", std::string("etcd://") + kEtcdAddress + "/shoal",
                                                [] { return daemons->etcd(); }},
                                           Kind{"dns_sd", "dns-sd", [] { return daemons->avahi(); }}),
                         [](const auto& kind) { return kind.param.name; });

TEST(Registry, WhatAPersonWritesIsFoundAndNotOverwritten) {
  const auto given = *OpenRegistry("a:1,[::1]:2");
  EXPECT_THAT(*given->find(Soon()), ElementsAre(Rendezvous{"a:1", {"a:1", "[::1]:2"}}));
  EXPECT_TRUE(absl::IsUnimplemented(given->publish({"x", {"b:1"}}, Soon())));

  const auto path = std::filesystem::temp_directory_path() / fmt::format("shoal-registry-{}.json", getpid());
  std::ofstream(path)
      << R"({"devices": [{"device_id": "m1", "role": "coordinator", "hostname": "m1.local", "port": 7}]})";
  const auto file = *OpenRegistry(path.string());
  EXPECT_THAT(*file->find(Soon()), ElementsAre(Rendezvous{"m1", {"m1.local:7"}}));
  EXPECT_TRUE(absl::IsUnimplemented(file->publish({"x", {"b:1"}}, Soon())));
  std::filesystem::remove(path);
  EXPECT_TRUE(absl::IsNotFound(file->find(Soon()).status()));
}

TEST(Registry, AnEtcdThatIsAwayIsUnavailableAndATextThatIsNoneIsRefused) {
  EXPECT_TRUE(absl::IsUnavailable((*OpenRegistry("etcd://127.0.0.1:1/x"))->find(Soon()).status()));
  for (const char* text : {"", "a", "a:0", "etcd://", "etcd://a", "etcd://a:1/b c", "a:1,b"})
    EXPECT_TRUE(absl::IsInvalidArgument(OpenRegistry(text).status())) << text;
}

TEST(Registry, AddressesOfOthersAreRead) {
  EXPECT_THAT(AddressesOf("a:1,b,a:1,c d:2,[::1]:3,e:0"), ElementsAre("a:1", "[::1]:3"));
  EXPECT_THAT(AddressesOf(""), IsEmpty());
}

}  // namespace
}  // namespace shoal
