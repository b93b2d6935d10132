#include "wire/grpc/listener.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

sockaddr_in Address(const char* host, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  SHOAL_CHECK_EQ(inet_pton(AF_INET, host, &address.sin_addr), 1);
  return address;
}

/// A client's socket.
class Client {
 public:
  explicit Client(const char* from = "127.0.0.1") : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    SHOAL_CHECK_GE(fd_, 0);
    const sockaddr_in local = Address(from, 0);
    SHOAL_CHECK_EQ(bind(fd_, reinterpret_cast<const sockaddr*>(&local), sizeof local), 0);
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Client() {
    if (fd_ >= 0) ::close(fd_);
  }
  void connect(int port) {
    const sockaddr_in address = Address("127.0.0.1", port);
    SHOAL_CHECK_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  void send(std::string_view bytes) const { (void)::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  /// Whether the server has hung up, or does within the time.
  bool closed_within(milliseconds limit) const {
    pollfd one{.fd = fd_, .events = POLLIN, .revents = 0};
    return poll(&one, 1, static_cast<int>(limit.count())) > 0;
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

class ListenerTest : public testing::Test {
 protected:
  ~ListenerTest() override {
    listener_ = nullptr;
    for (const int fd : taken_) ::close(fd);
  }
  void start(ListenerOptions options = {}) {
    options.address = "127.0.0.1:0";
    auto listener = Listener::Bind(std::move(options));
    ASSERT_TRUE(listener.ok()) << Message(listener.status());
    listener_ = *std::move(listener);
    listener_->start([this](int fd) {
      const std::lock_guard lock(mutex_);
      taken_.push_back(fd);
    });
  }
  Client client(std::string_view says = "", const char* from = "127.0.0.1") {
    Client client(from);
    client.connect(listener_->port());
    client.send(says);
    return client;
  }
  int64_t taken() {
    const std::lock_guard lock(mutex_);
    return std::ssize(taken_);
  }
  bool takes(int64_t count) {
    const Deadline deadline = Deadline::after_ms(10'000);
    while (taken() < count && !deadline.expired()) std::this_thread::sleep_for(milliseconds(2));
    return taken() == count;
  }

  std::unique_ptr<Listener> listener_;
  std::mutex mutex_;
  std::vector<int> taken_;
};

TEST_F(ListenerTest, HandsOnWhatBeginsAsHttp2WithNothingRead) {
  start();
  Client whole = client(kPreface);
  ASSERT_TRUE(takes(1));
  Client halves = client(kPreface.substr(0, 10));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(taken(), 1);
  halves.send(kPreface.substr(10));
  ASSERT_TRUE(takes(2));
  std::array<char, 64> bytes;
  EXPECT_EQ(recv(taken_[1], bytes.data(), bytes.size(), 0), std::ssize(kPreface));
}

TEST_F(ListenerTest, ClosesWhatIsNoHttp2AndWhatSaysNothing) {
  start({.preface_timeout = milliseconds(300)});
  EXPECT_TRUE(client("GET / HTTP/1.1\r\nHost: x\r\n\r\n").closed_within(milliseconds(5000)));
  Client silent = client();
  Client slow = client(kPreface.substr(0, 5));
  EXPECT_FALSE(silent.closed_within(milliseconds(50)));
  EXPECT_TRUE(silent.closed_within(milliseconds(5000)));
  EXPECT_TRUE(slow.closed_within(milliseconds(5000)));
  EXPECT_EQ(taken(), 0);
}

TEST_F(ListenerTest, WhereThereIsNoRoomTheOldestSilentOneGoes) {
  start({.preface_timeout = std::chrono::seconds(60), .connections_max = 3});
  const Client first = client();
  const Client second = client();
  const Client third = client();
  EXPECT_FALSE(first.closed_within(milliseconds(100)));
  const Client fourth = client(kPreface);
  ASSERT_TRUE(takes(1));
  EXPECT_TRUE(first.closed_within(milliseconds(5000)));
  EXPECT_FALSE(second.closed_within(milliseconds(0)) || third.closed_within(milliseconds(0)) ||
               fourth.closed_within(milliseconds(0)));
}

TEST_F(ListenerTest, OneAddressCannotTakeAllConnections) {
  start({.connections_max = 10, .per_address_max = 2});
  const Client one = client(kPreface, "127.0.0.2");
  const Client two = client(kPreface, "127.0.0.2");
  ASSERT_TRUE(takes(2));
  EXPECT_TRUE(client(kPreface, "127.0.0.2").closed_within(milliseconds(5000)));
  const Client other = client(kPreface, "127.0.0.3");
  EXPECT_TRUE(takes(3));
  {  // Whoever has the descriptor closes it, and it no longer counts.
    const std::lock_guard lock(mutex_);
    ::close(taken_.front());
    taken_.erase(taken_.begin());
  }
  const Client again = client(kPreface, "127.0.0.2");
  EXPECT_TRUE(takes(3));
}

/// Lowers the descriptor limit to `spare` above what is open.
class FewDescriptors {
 public:
  explicit FewDescriptors(int spare) {
    SHOAL_CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int next = dup(0);
    ::close(next);
    rlimit low = before_;
    low.rlim_cur = static_cast<rlim_t>(next + spare);
    SHOAL_CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  }
  ~FewDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(ListenerTest, RecoversWhenDescriptorsAreBackSaysSoAndDoesNotSpin) {
  start();
  std::vector<Client> clients(12);
  testing::internal::CaptureStderr();
  {
    const FewDescriptors few(4);
    for (Client& one : clients) {
      one.connect(listener_->port());
      one.send(kPreface);
    }
    ASSERT_TRUE(takes(4)) << taken();
    const CpuTime before = ProcessCpuTime();
    std::this_thread::sleep_for(milliseconds(500));
    const CpuTime spent = ProcessCpuTime() - before;
    EXPECT_LT(spent.user_s + spent.system_s, 0.1);
    EXPECT_EQ(taken(), 4);
  }
  EXPECT_TRUE(takes(12)) << taken();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("accept: Too many open files"), HasSubstr("accepts connections again")));
  EXPECT_EQ(log.find("Too many", log.find("Too many") + 1), std::string::npos) << log;
}

TEST_F(ListenerTest, SilentConnectionsAreClosedWhereDescriptorsRunOut) {
  start({.preface_timeout = std::chrono::seconds(60)});
  std::vector<Client> clients(12);
  const FewDescriptors few(4);
  for (Client& one : clients) one.connect(listener_->port());
  EXPECT_TRUE(clients[0].closed_within(milliseconds(5000)));
  clients.back().send(kPreface);
  EXPECT_TRUE(takes(1));
}

TEST(Listener, SaysWhyItCannotListen) {
  const auto first = Listener::Bind({.address = "127.0.0.1:0"});
  ASSERT_TRUE(first.ok());
  const std::string taken = fmt::format("127.0.0.1:{}", (*first)->port());
  const auto second = Listener::Bind({.address = taken});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), AllOf(HasSubstr(taken), HasSubstr("in use")));
  EXPECT_FALSE(Listener::Bind({.address = "192.0.2.1:0"}).ok());
  EXPECT_FALSE(Listener::Bind({.address = "no-such-host.invalid:0"}).ok());
}

TEST(Listener, AWildcardTakesBothFamilies) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "localhost:0"}) {
    const auto listener = Listener::Bind({.address = address});
    ASSERT_TRUE(listener.ok()) << Message(listener.status());
    Client v4;
    v4.connect((*listener)->port());
  }
}

}  // namespace
}  // namespace shoal
