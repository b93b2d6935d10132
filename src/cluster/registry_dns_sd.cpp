// Coordinators on the local network, by DNS-SD (RFC 6763): services _shoal._tcp that Avahi's daemon publishes and finds.
// Its TXT record has the addresses: "addresses=HOST:PORT,HOST:PORT".
#include <avahi-client/client.h>
#include <avahi-client/lookup.h>
#include <avahi-client/publish.h>
#include <avahi-common/error.h>
#include <avahi-common/malloc.h>
#include <avahi-common/simple-watch.h>
#include <avahi-common/strlst.h>
#include <dlfcn.h>

#include <map>
#include <type_traits>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cluster/registry.h"
#include "plan/node_name.h"

namespace shoal {
namespace {

constexpr char kType[] = "_shoal._tcp";
constexpr char kKey[] = "addresses";
/// Answers of a network come within a fraction of a second; who sleeps answers later, and is found the next time.
constexpr Duration kBrowseMax = std::chrono::milliseconds(1200);
constexpr int kPollMs = 20;

constexpr char kLibrary[] =
    "libavahi-client.so.3";  ///< It brings libavahi-common, whose functions are here, too.

/// The functions of Avahi's client library that are used here.
struct Avahi {
  decltype(&avahi_address_snprint) address_snprint = nullptr;
  decltype(&avahi_client_errno) client_errno = nullptr;
  decltype(&avahi_client_free) client_free = nullptr;
  decltype(&avahi_client_new) client_new = nullptr;
  decltype(&avahi_entry_group_add_service) entry_group_add_service = nullptr;
  decltype(&avahi_entry_group_commit) entry_group_commit = nullptr;
  decltype(&avahi_entry_group_new) entry_group_new = nullptr;
  decltype(&avahi_free) free = nullptr;
  decltype(&avahi_service_browser_new) service_browser_new = nullptr;
  decltype(&avahi_service_resolver_free) service_resolver_free = nullptr;
  decltype(&avahi_service_resolver_new) service_resolver_new = nullptr;
  decltype(&avahi_simple_poll_free) simple_poll_free = nullptr;
  decltype(&avahi_simple_poll_get) simple_poll_get = nullptr;
  decltype(&avahi_simple_poll_iterate) simple_poll_iterate = nullptr;
  decltype(&avahi_simple_poll_new) simple_poll_new = nullptr;
  decltype(&avahi_strerror) strerror = nullptr;
  decltype(&avahi_string_list_find) string_list_find = nullptr;
  decltype(&avahi_string_list_get_pair) string_list_get_pair = nullptr;

  /// Whether the library has them all.
  bool find_in(void* library) {
    const auto find = [library](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find("avahi_address_snprint", address_snprint) && find("avahi_client_errno", client_errno) &&
           find("avahi_client_free", client_free) && find("avahi_client_new", client_new) &&
           find("avahi_entry_group_add_service", entry_group_add_service) &&
           find("avahi_entry_group_commit", entry_group_commit) &&
           find("avahi_entry_group_new", entry_group_new) && find("avahi_free", free) &&
           find("avahi_service_browser_new", service_browser_new) &&
           find("avahi_service_resolver_free", service_resolver_free) &&
           find("avahi_service_resolver_new", service_resolver_new) &&
           find("avahi_simple_poll_free", simple_poll_free) &&
           find("avahi_simple_poll_get", simple_poll_get) &&
           find("avahi_simple_poll_iterate", simple_poll_iterate) &&
           find("avahi_simple_poll_new", simple_poll_new) && find("avahi_strerror", strerror) &&
           find("avahi_string_list_find", string_list_find) &&
           find("avahi_string_list_get_pair", string_list_get_pair);
  }
};

/// Avahi's library, which is loaded at the first call and stays; nullptr where there is none. It is not linked, so that
/// shoal starts on machines without it: most clusters have no use for it.
const Avahi* LoadAvahi() {
  static const Avahi* const loaded = []() -> const Avahi* {
    static Avahi avahi;
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && avahi.find_in(library) ? &avahi : nullptr;
  }();
  return loaded;
}

struct FreePoll {
  void operator()(AvahiSimplePoll* poll) const { LoadAvahi()->simple_poll_free(poll); }
};
struct FreeClient {
  void operator()(AvahiClient* client) const { LoadAvahi()->client_free(client); }
};

/// A connection to the daemon. What is published goes with it.
class Daemon {
 public:
  explicit Daemon(const Avahi& avahi) : avahi_(avahi) {}

  static absl::StatusOr<std::unique_ptr<Daemon>> Connect() {
    const Avahi* avahi = LoadAvahi();
    if (avahi == nullptr) {
      return Unavailable(
          "dns-sd: {} is not installed: sudo apt install libavahi-client3 avahi-daemon, or give addresses",
          kLibrary);
    }
    auto daemon = std::make_unique<Daemon>(*avahi);
    daemon->poll_.reset(avahi->simple_poll_new());
    if (daemon->poll_ == nullptr) return ResourceExhausted("dns-sd: no memory");
    int error = 0;
    const auto changed = [](AvahiClient*, AvahiClientState state, void* self) {
      static_cast<Daemon*>(self)->state_ = state;
    };
    daemon->client_.reset(avahi->client_new(avahi->simple_poll_get(daemon->poll_.get()), AvahiClientFlags(0),
                                            changed, daemon.get(), &error));
    if (daemon->client_ != nullptr) return daemon;
    return Unavailable(
        "dns-sd: Avahi's daemon is not there ({}): sudo apt install avahi-daemon, and start it, or give "
        "addresses",
        avahi->strerror(error));
  }

  const Avahi& avahi() const { return avahi_; }
  AvahiClient* client() const { return client_.get(); }
  bool lost() const { return state_ == AVAHI_CLIENT_FAILURE; }
  /// Handles what the daemon says, until `done` or the deadline.
  template <typename Done>
  void run(Deadline deadline, Done done) {
    while (!done() && !lost() && !deadline.expired()) {
      if (avahi_.simple_poll_iterate(poll_.get(), kPollMs) != 0) return;
    }
  }

 private:
  const Avahi& avahi_;
  std::unique_ptr<AvahiSimplePoll, FreePoll> poll_;
  AvahiClientState state_ = AVAHI_CLIENT_CONNECTING;
  std::unique_ptr<AvahiClient, FreeClient> client_;  // Goes before the poll that it uses.
};

/// One look at the network.
struct Browse {
  const Avahi& avahi;
  AvahiClient* client = nullptr;
  std::map<std::string, Rendezvous> found;
  int open = 0;      ///< Services that are being resolved.
  bool all = false;  ///< The daemon knows of no more for now.
};

// parameters: they are those of Avahi's callback.
void OnResolved(AvahiServiceResolver* resolver, AvahiIfIndex, AvahiProtocol, AvahiResolverEvent event,
                const char* name, const char*, const char*, const char*, const AvahiAddress* address,
                uint16_t port, AvahiStringList* text, AvahiLookupResultFlags, void* user) {
  Browse& browse = *static_cast<Browse*>(user);
  --browse.open;
  if (event == AVAHI_RESOLVER_FOUND) {
    Rendezvous& one = browse.found[name];
    one.name = name;
    char* value = nullptr;
    if (AvahiStringList* entry = browse.avahi.string_list_find(text, kKey);
        entry != nullptr && browse.avahi.string_list_get_pair(entry, nullptr, &value, nullptr) == 0 &&
        value != nullptr) {
      one.addresses = AddressesOf(value);
      browse.avahi.free(value);
    }
    char host[AVAHI_ADDRESS_STR_MAX] = "";
    browse.avahi.address_snprint(host, sizeof host, address);
    // The daemon's own answer, where the record says nothing that can be used.
    if (one.addresses.empty()) one.addresses = AddressesOf(HostPort{host, port}.to_string());
  }
  browse.avahi.service_resolver_free(resolver);
}

// parameters: they are those of Avahi's callback.
void OnBrowsed(AvahiServiceBrowser*, AvahiIfIndex interface, AvahiProtocol protocol, AvahiBrowserEvent event,
               const char* name, const char* type, const char* domain, AvahiLookupResultFlags, void* user) {
  Browse& browse = *static_cast<Browse*>(user);
  constexpr int kServicesMax = 64;
  if (event == AVAHI_BROWSER_ALL_FOR_NOW || event == AVAHI_BROWSER_FAILURE) browse.all = true;
  if (event != AVAHI_BROWSER_NEW || browse.open >= kServicesMax || !IsNodeName(name)) return;
  if (browse.avahi.service_resolver_new(browse.client, interface, protocol, name, type, domain,
                                        AVAHI_PROTO_UNSPEC, AvahiLookupFlags(0), OnResolved,
                                        user) != nullptr) {
    ++browse.open;
  }
}

class DnsSdRegistry final : public Registry {
 public:
  std::string what() const override { return "dns-sd on the local network"; }

  absl::StatusOr<std::vector<Rendezvous>> find(Deadline deadline) override {
    ASSIGN_OR_RETURN(const std::unique_ptr<Daemon> daemon, Daemon::Connect());
    const Avahi& avahi = daemon->avahi();
    Browse browse{.avahi = avahi, .client = daemon->client()};
    AvahiServiceBrowser* browser =
        avahi.service_browser_new(daemon->client(), AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC, kType, nullptr,
                                  AvahiLookupFlags(0), OnBrowsed, &browse);
    if (browser == nullptr)
      return Unavailable("dns-sd: {}", avahi.strerror(avahi.client_errno(daemon->client())));
    daemon->run(Deadline::min(deadline, Deadline::after(kBrowseMax)),
                [&] { return browse.all && browse.open == 0; });
    // Browser and resolvers go with the client.
    std::vector<Rendezvous> list;
    for (auto& [name, one] : browse.found) {
      if (!one.addresses.empty()) list.push_back(std::move(one));
    }
    return list;
  }

  absl::Status publish(const Rendezvous& self, Deadline deadline) override {
    if (daemon_ != nullptr) daemon_->run(Deadline::after_ms(1), [] { return false; });  // It may have gone.
    if (daemon_ != nullptr && !daemon_->lost() && self == published_) return absl::OkStatus();
    daemon_.reset();
    ASSIGN_OR_RETURN(daemon_, Daemon::Connect());
    established_ = failed_ = false;
    const auto changed = [](AvahiEntryGroup*, AvahiEntryGroupState state, void* user) {
      auto& registry = *static_cast<DnsSdRegistry*>(user);
      registry.established_ = state == AVAHI_ENTRY_GROUP_ESTABLISHED;
      registry.failed_ = state == AVAHI_ENTRY_GROUP_COLLISION || state == AVAHI_ENTRY_GROUP_FAILURE;
    };
    const Avahi& avahi = daemon_->avahi();
    AvahiEntryGroup* group = avahi.entry_group_new(daemon_->client(), changed, this);
    const auto port = ParseHostPort(self.addresses.empty() ? "" : self.addresses.front());
    if (group == nullptr || !port.ok())
      return Unavailable("dns-sd: there is nothing to publish, or no daemon");
    const std::string text = fmt::format("{}={}", kKey, Join(self.addresses, ","));
    int error = avahi.entry_group_add_service(
        group, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC, AvahiPublishFlags(0), self.name.c_str(), kType, nullptr,
        nullptr, static_cast<uint16_t>(port->port), text.c_str(), nullptr);
    if (error >= 0) error = avahi.entry_group_commit(group);
    if (error < 0) {
      daemon_.reset();
      return Unavailable("dns-sd: '{}' can't be published: {}", self.name, avahi.strerror(error));
    }
    daemon_->run(deadline, [this] { return established_ || failed_; });
    if (!established_) {
      daemon_.reset();
      return Unavailable("dns-sd: '{}' is not published: {}", self.name,
                         failed_ ? "another machine has the name" : "the daemon does not confirm it");
    }
    published_ = self;
    return absl::OkStatus();
  }

  void withdraw(Deadline) override { daemon_.reset(); }

 private:
  std::unique_ptr<Daemon> daemon_;  ///< Of what is published.
  bool established_ = false;
  bool failed_ = false;
  Rendezvous published_;
};

}  // namespace

std::unique_ptr<Registry> MakeDnsSdRegistry() { return std::make_unique<DnsSdRegistry>(); }

}  // namespace shoal
