#include "network.h"

#include <algorithm>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "turns.h"
#include "wire/handshake.h"

namespace shoal::sim {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(5);
constexpr Duration kDialAgain = std::chrono::milliseconds(100);
constexpr Duration kReplayWithin = std::chrono::milliseconds(150);
constexpr size_t kKeptMax = 12;

Network* network = nullptr;

std::pair<int, int> PairOf(int a, int b) { return {std::min(a, b), std::max(a, b)}; }

/// Sessions of one coordinator process have the same.
uint64_t CoordinatorOf(uint64_t session) { return session >> 32; }

}  // namespace

int MachineAt(const std::string& address) {
  const absl::StatusOr<HostPort> at = ParseHostPort(address);
  SHOAL_CHECK(at.ok());
  return at->port - kFirstPort;
}

int ThisMachine() { return CurrentTurns() == nullptr ? 0 : CurrentTurns()->machine(); }

Network::Network(const NetworkOptions& options)
    : options_(options),
      random_(options.seed, /*stream=*/2),
      machines_(static_cast<size_t>(options.machines)) {
  SHOAL_CHECK(network == nullptr);
  network = this;
  carrier_ = std::thread([this] { carry(); });
}

Network::~Network() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  sooner_.notify_all();
  carrier_.join();
  network = nullptr;
}

Network& Network::Get() {
  SHOAL_CHECK(network != nullptr);
  return *network;
}

// ----------------------------------------------------------------------------------------------------- machines

void Network::boot(int machine) {
  const std::lock_guard lock(mutex_);
  Machine& booted = machines_.at(static_cast<size_t>(machine));
  SHOAL_CHECK(!booted.up);
  booted = {.up = true, .process = next_process_++};
  std::erase_if(known_, [machine](const Key& key) { return std::get<0>(key) == machine; });
}

void Network::crash(int machine) {
  Process ended;  // May end with it, which takes locks.
  {
    const std::lock_guard lock(mutex_);
    Machine& crashed = machines_.at(static_cast<size_t>(machine));
    crashed.up = false;
    crashed.process = 0;
    ended = std::exchange(crashed.serves, {});
    kept_.erase(machine);
    for (const EndPtr& end : ends_on(machine)) {
      leave(*end, "connection reset by peer");
      end->inbox.close(Cancelled("the process was killed"));
    }
  }
  changed_.notify_all();
}

bool Network::up(int machine) const {
  const std::lock_guard lock(mutex_);
  return machines_.at(static_cast<size_t>(machine)).up;
}

uint64_t Network::process(int machine) const {
  const std::lock_guard lock(mutex_);
  return machines_.at(static_cast<size_t>(machine)).process;
}

void Network::serve(int machine, std::shared_ptr<WorkerControl> control) {
  const std::lock_guard lock(mutex_);
  machines_.at(static_cast<size_t>(machine)).serves.control = std::move(control);
}

void Network::serve_caches(int machine, std::shared_ptr<CacheDoor> caches) {
  const std::lock_guard lock(mutex_);
  machines_.at(static_cast<size_t>(machine)).serves.caches = std::move(caches);
}

void Network::announce(int machine, uint64_t instance) {
  const std::lock_guard lock(mutex_);
  machines_.at(static_cast<size_t>(machine)).instance = instance;
}

// ------------------------------------------------------------------------------------------------------- faults

bool Network::parted(int a, int b) const {
  const std::lock_guard lock(mutex_);
  return parted_.contains(PairOf(a, b));
}

void Network::part(int a, int b) {
  const std::lock_guard lock(mutex_);
  parted_.insert(PairOf(a, b));
}

void Network::heal(int a, int b) {
  {
    const std::lock_guard lock(mutex_);
    parted_.erase(PairOf(a, b));
    for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
      for (const EndPtr& end : ends_on(from)) {
        for (const PeerAddress& address : end->options.peers) {
          if (address.node == end->options.self || MachineAt(address.address) != to) continue;
          const EndPtr peer = peer_of(*end, address.node);
          StreamEnd::Out& way = end->out[address.node];
          if (peer == nullptr || peer->closed) {
            if (std::exchange(way.open, false)) {
              arrive_at(end,
                        Event::peer_down(address.node, Unavailable("{}: connection reset by peer",
                                                                   name_of(*end, address.node))),
                        Clock::now());
            }
            continue;
          }
          std::deque<Event> held;
          held.swap(way.held);
          for (Event& event : held) put_on_the_way(*end, *peer, std::move(event));
        }
      }
    }
  }
  changed_.notify_all();
}

void Network::reset(int a, int b) {
  {
    const std::lock_guard lock(mutex_);
    ++resets_[PairOf(a, b)];
    for (const EndPtr& one : ends_on(a)) {
      for (const EndPtr& other : ends_on(b)) {
        if (one->options.session != other->options.session || !linked(*one, *other)) continue;
        break_stream(*one, *other, "the connection broke");
      }
    }
  }
  changed_.notify_all();
}

void Network::corrupt_next(int from, int to) {
  const std::lock_guard lock(mutex_);
  corrupt_.insert({from, to});
}

void Network::lose_next(int from, int to) {
  const std::lock_guard lock(mutex_);
  lose_.insert({from, to});
}

void Network::slow_down(int machine, Duration more) {
  const std::lock_guard lock(mutex_);
  extra_delay_[machine] = more;
}

Duration Network::delay(int from, int to) {
  const auto span = static_cast<uint64_t>((options_.delay_max - options_.delay_min).count());
  Duration delay = options_.delay_min + Duration(static_cast<int64_t>(random_.below(span + 1)));
  for (const int machine : {from, to}) {
    if (const auto more = extra_delay_.find(machine); more != extra_delay_.end()) delay += more->second;
  }
  return delay;
}

// ------------------------------------------------------------------------------------------------------ streams

std::string Network::name_of(const StreamEnd& end, NodeId node) const {
  for (const PeerAddress& peer : end.options.peers) {
    if (peer.node == node) return PeerText(node, peer.name);
  }
  return PeerText(node, "");
}

std::vector<Network::EndPtr> Network::ends_on(int machine) const {
  std::vector<EndPtr> ends;
  for (const auto& [key, end] : ends_) {
    if (std::get<0>(key) != machine) continue;
    if (EndPtr here = end.lock(); here != nullptr && !here->closed) ends.push_back(std::move(here));
  }
  return ends;
}

Network::EndPtr Network::peer_of(const StreamEnd& end, NodeId to) const {
  for (const PeerAddress& peer : end.options.peers) {
    if (peer.node != to) continue;
    const auto found = ends_.find({MachineAt(peer.address), end.options.session, to});
    return found == ends_.end() ? nullptr : found->second.lock();
  }
  return nullptr;
}

absl::StatusOr<std::shared_ptr<StreamEnd>> Network::open(SessionOptions options, int machine,
                                                         uint64_t process, const WindowLimits& window) {
  const Key key{machine, options.session, options.self};
  auto end = std::make_shared<StreamEnd>(std::move(options), machine, window);
  const std::lock_guard lock(mutex_);
  if (machines_.at(static_cast<size_t>(machine)).process != process)
    return Cancelled("the process was killed");
  if (!known_.insert(key).second) {
    return FailedPrecondition("session {:016x} was opened here before", end->options.session);
  }
  std::erase_if(ends_, [](const auto& entry) { return entry.second.expired(); });
  ends_[key] = end;
  replay(*end);
  return end;
}

// The first ones of a session: a later session that takes one for its own is at that step when it comes.
void Network::keep_for_replay(const StreamEnd& end, const StreamEnd& peer, const Event& event) {
  const FrameKind kind = event.frame.header.kind;
  if (!options_.replays || (kind != FrameKind::kStep && kind != FrameKind::kStepResult)) return;
  auto& kept = kept_[peer.machine];
  std::erase_if(kept, [&](const auto& one) { return one.first != end.options.session; });
  if (kept.size() < kKeptMax) kept.emplace_back(end.options.session, event);
}

// What came late to an earlier session of the same coordinator's: nodes tell it by the epoch (I4).
void Network::replay(StreamEnd& end) {
  for (auto& [session, event] : kept_[end.machine]) {
    if (std::ranges::find(end.options.peers, event.from, &PeerAddress::node) == end.options.peers.end())
      continue;
    if (session == end.options.session || CoordinatorOf(session) != CoordinatorOf(end.options.session))
      continue;
    const auto within =
        Duration(static_cast<int64_t>(random_.below(static_cast<uint64_t>(kReplayWithin.count()))));
    arrive_at(end.shared_from_this(), std::move(event), Clock::now() + within);
  }
  kept_.erase(end.machine);
}

absl::Status Network::dial(StreamEnd& end, NodeId to) {
  const auto address = std::ranges::find(end.options.peers, to, &PeerAddress::node);
  if (address == end.options.peers.end()) {
    return InvalidArgument("send to node {}: the session has no such node", to);
  }
  const std::string name = name_of(end, to);
  StreamEnd::Out& way = end.out[to];
  if (way.open) return absl::OkStatus();
  if (way.dialled_again > Clock::now()) return Unavailable("send to {}: the link is down", name);
  const int machine = MachineAt(address->address);
  if (parted_.contains(PairOf(end.machine, machine))) return DeadlineExceeded("{} does not answer", name);
  if (!machines_.at(static_cast<size_t>(machine)).up) return Unavailable("{}: connection refused", name);
  const EndPtr peer = peer_of(end, to);
  if (peer == nullptr || peer->closed) {
    if (!known_.contains({machine, end.options.session, to}))
      return DeadlineExceeded("{} is not there yet", name);
    return FailedPrecondition("{}: session {:016x} has ended there", name, end.options.session);
  }
  const auto hello = [](const StreamEnd& from, NodeId other) {
    return Hello{.session = from.options.session,
                 .from = from.options.self,
                 .to = other,
                 .from_name = fmt::format("node {}", from.options.self),
                 .identity = from.options.identity};
  };
  RETURN_IF_ERROR(CheckHellos(hello(end, to), hello(*peer, end.options.self)));
  way.open = true;
  return absl::OkStatus();
}

absl::Status Network::connect(StreamEnd& end, Deadline deadline) {
  for (const PeerAddress& peer : end.options.peers) {
    if (peer.node == end.options.self) continue;
    while (true) {
      absl::Status dialled;
      {
        const std::lock_guard lock(mutex_);
        if (end.closed) return Cancelled("the session was closed here");
        dialled = dial(end, peer.node);
      }
      if (dialled.ok()) break;
      if (!absl::IsUnavailable(dialled) && !absl::IsDeadlineExceeded(dialled)) return dialled;
      if (deadline.expired()) return dialled;
      std::this_thread::sleep_for(kLook);
    }
  }
  return absl::OkStatus();
}

absl::Status Network::send(StreamEnd& end, NodeId to, Frame frame, Deadline deadline) {
  frame.header.sender = end.options.self;
  EndPtr peer;
  while (true) {
    absl::Status dialled;
    {
      const std::lock_guard lock(mutex_);
      if (end.closed) return Cancelled("send to {}: the session is closed here", name_of(end, to));
      if (to != end.options.self) dialled = dial(end, to);
      if (dialled.ok()) peer = peer_of(end, to);
    }
    if (dialled.ok()) break;
    if (!absl::IsDeadlineExceeded(dialled) || deadline.expired()) return dialled;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (peer == nullptr) return Unavailable("send to {}: it closed the session", name_of(end, to));
  if (to != end.options.self) {
    const absl::Status room = peer->inbox.wait_for_room(end.options.self, deadline);
    if (absl::IsCancelled(room)) return Unavailable("send to {}: it closed the session", name_of(end, to));
    RETURN_IF_ERROR(room);
  }
  const Buffer encoded = EncodeFrame(frame);
  const std::lock_guard lock(mutex_);
  return deliver(end, *peer, encoded);
}

// Held over the push: nothing comes after a kPeerDown, or before an earlier frame.
absl::Status Network::deliver(StreamEnd& end, StreamEnd& peer, const Buffer& encoded) {
  const NodeId to = peer.options.self;
  StreamEnd::Out& way = end.out[to];
  if (end.closed) return Cancelled("send to {}: the session is closed here", name_of(end, to));
  if (peer.closed || (&end != &peer && !way.open)) {
    return Unavailable("send to {}: the link is down", name_of(end, to));
  }
  ++frames_;
  way.sent.frames_sent += 1;
  way.sent.bytes_sent += encoded.size();
  if (lose_.erase({end.machine, peer.machine}) > 0) return absl::OkStatus();
  if (corrupt_.erase({end.machine, peer.machine}) > 0) {
    const_cast<std::byte&>(encoded.bytes().back()) ^= std::byte{0x10};  // Made for us alone.
  }
  auto frame = DecodeFrameInPlace(encoded, {});
  if (!frame.ok()) {
    break_stream(end, peer, ToString(frame.status()));
    return absl::OkStatus();
  }
  CurrentTurns()->note(static_cast<uint64_t>(frame->header.kind) << 32 | frame->header.step.value);
  LogDebug("machine {} to {}: {}", end.machine, peer.machine, Describe(frame->header));
  Event event;
  event.kind = Event::Kind::kFrame;
  event.from = end.options.self;
  event.frame = *std::move(frame);
  keep_for_replay(end, peer, event);
  if (parted_.contains(PairOf(end.machine, peer.machine))) {
    way.held.push_back(std::move(event));
  } else {
    put_on_the_way(end, peer, std::move(event));
  }
  return absl::OkStatus();
}

void Network::put_on_the_way(StreamEnd& end, StreamEnd& peer, Event event) {
  StreamEnd::Out& way = end.out[peer.options.self];
  const Duration takes = end.machine == peer.machine ? Duration(1000) : delay(end.machine, peer.machine);
  way.last_ready = std::max(way.last_ready, Clock::now() + takes);
  arrive_at(peer.shared_from_this(), std::move(event), way.last_ready);
}

void Network::arrive_at(const EndPtr& to, Event event, Clock::time_point when) {
  on_the_way_.emplace(std::pair(when, next_arrival_++), Arrival{to, std::move(event)});
  sooner_.notify_all();
}

void Network::carry() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    if (on_the_way_.empty()) {
      sooner_.wait(lock);
      continue;
    }
    const auto first = on_the_way_.begin();
    if (first->first.first > Clock::now()) {
      sooner_.wait_until(lock, first->first.first);
      continue;
    }
    const Arrival arrival = std::move(first->second);
    on_the_way_.erase(first);
    arrival.to->inbox.push(arrival.event);
  }
}

bool Network::linked(const StreamEnd& a, const StreamEnd& b) const {
  const auto open = [](const StreamEnd& from, const StreamEnd& to) {
    const auto way = from.out.find(to.options.self);
    return way != from.out.end() && way->second.open;
  };
  return open(a, b) || open(b, a);
}

void Network::break_stream(StreamEnd& a, StreamEnd& b, const std::string& why) {
  tell_down(a, b, why);
  tell_down(b, a, why);
  for (const auto& [from, to] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    StreamEnd::Out& way = from->out[to->options.self];
    way.open = false;
    way.held.clear();
    way.dialled_again = Clock::now() + kDialAgain;
  }
}

// What is on its way arrives before, or not at all.
void Network::tell_down(StreamEnd& end, const StreamEnd& peer, const std::string& why) {
  if (end.closed) return;
  const NodeId from = peer.options.self;
  Clock::time_point ready = Clock::now();
  if (random_.below(2) == 0) {
    std::erase_if(on_the_way_, [&](const auto& entry) {
      return entry.second.to.get() == &end && entry.second.event.from == from;
    });
  } else if (const auto way = peer.out.find(end.options.self); way != peer.out.end()) {
    ready = std::max(ready, way->second.last_ready);
  }
  arrive_at(end.shared_from_this(), Event::peer_down(from, Unavailable("{}: {}", name_of(end, from), why)),
            ready);
}

// Its peers learn it, unless nothing comes through to them now.
void Network::leave(StreamEnd& end, const std::string& why) {
  if (std::exchange(end.closed, true)) return;
  for (const PeerAddress& address : end.options.peers) {
    const EndPtr peer = address.node == end.options.self ? nullptr : peer_of(end, address.node);
    if (peer == nullptr || peer->closed) continue;
    peer->inbox.release_sender(end.options.self);
    if (parted_.contains(PairOf(end.machine, peer->machine)) || !linked(end, *peer)) continue;
    tell_down(*peer, end, why);
    peer->out[end.options.self].open = false;
  }
  for (auto& [node, way] : end.out) way.open = false;
}

void Network::close(StreamEnd& end, const absl::Status& why) {
  {
    const std::lock_guard lock(mutex_);
    leave(end, "it closed the session");
  }
  end.inbox.close(why);
}

// -------------------------------------------------------------------------------------------------------- calls

void Network::travel(int from, int to) {
  Duration takes{};
  {
    const std::lock_guard lock(mutex_);
    takes = from == to ? Duration(1000) : delay(from, to);
  }
  std::this_thread::sleep_for(takes);
  while (parted(from, to)) std::this_thread::sleep_for(kLook);
}

void Network::end_call(const std::shared_ptr<Call>& call, absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    call->done = true;
    call->status = std::move(status);
  }
  changed_.notify_all();
}

void Network::serve_call(const std::shared_ptr<Call>& call, int from, int to,
                         const std::function<absl::Status(const Process&)>& run) {
  CurrentTurns()->set_machine(to);
  SetThreadLogName(fmt::format("machine-{}", to), -1);
  travel(from, to);
  Process serves;
  uint64_t serving = 0;
  {
    const std::lock_guard lock(mutex_);
    serves = machines_[static_cast<size_t>(to)].serves;
    serving = machines_[static_cast<size_t>(to)].process;
  }
  const absl::Status status = run(serves);
  serves = {};
  travel(to, from);
  const bool same = process(to) == serving;
  end_call(call, same ? status : Unavailable("connection reset by peer"));
}

absl::Status Network::call(const Caller& caller, const std::string& address,
                           std::function<absl::Status(const Process&)> run, Deadline deadline,
                           const std::function<bool()>& cancelled) {
  const int from = caller.machine;
  if (process(from) != caller.process) return Cancelled("the process was killed");
  const int to = MachineAt(address);
  const auto call = std::make_shared<Call>();
  std::thread([this, call, from, to, run = std::move(run)] { serve_call(call, from, to, run); }).detach();
  std::unique_lock lock(mutex_);
  const uint64_t resets = resets_[PairOf(from, to)];
  while (true) {
    if (machines_[static_cast<size_t>(from)].process != caller.process)
      return Cancelled("the process was killed");
    if (call->done) return call->status;
    if (resets_[PairOf(from, to)] != resets) return Unavailable("the connection broke");
    if (!machines_[static_cast<size_t>(to)].up) return Unavailable("connection refused");
    if (cancelled()) return Cancelled("no call is made any more");
    if (deadline.expired()) return DeadlineExceeded("no answer in time");
    changed_.wait_until(lock, std::min(deadline.at, Clock::now() + 10 * kLook));
  }
}

absl::Status Network::probe(const PeerToCheck& peer, Deadline deadline) {
  const int from = ThisMachine();
  const int to = MachineAt(peer.address);
  while (parted(from, to)) {
    if (deadline.expired()) return DeadlineExceeded("'{}' at {}: no answer in time", peer.name, peer.address);
    std::this_thread::sleep_for(kLook);
  }
  travel(from, to);
  travel(to, from);
  const std::lock_guard lock(mutex_);
  const Machine& machine = machines_[static_cast<size_t>(to)];
  if (!machine.up) return Unavailable("'{}' at {}: connection refused", peer.name, peer.address);
  if (peer.instance != 0 && machine.instance != peer.instance) {
    return FailedPrecondition("another process than '{}' answers at {}", peer.name, peer.address);
  }
  return absl::OkStatus();
}

}  // namespace shoal::sim
