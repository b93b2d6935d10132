#include "exec/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "exec/task_transport.h"
#include "wire/grpc/endpoint.h"
#include "wire/inproc.h"

namespace shoal {
namespace {

using testing::HasSubstr;

Deadline Soon() { return Deadline::after_ms(20'000); }

using Body = std::function<void(Executor::Task&)>;

/// Runs `bodies` by turns until all have ended; none begins before all were started.
void RunAll(Executor& executor, const std::vector<Body>& bodies) {
  std::atomic<size_t> started{0};
  std::vector<std::shared_ptr<const Executor::Task>> tasks;
  for (const Body& body : bodies) {
    tasks.push_back(*executor.start([&](Executor::Task& task) {
      ++started;
      executor.wakeup()->announce();
      while (started < bodies.size()) task.wait(executor.wakeup()->announced(), Deadline::after_ms(1));
      body(task);
    }));
  }
  for (const auto& task : tasks) executor.join(*task);
}

/// The two ends of a network, as two tasks of an executor see them.
struct Ends {
  Ends(Executor& executor, const InprocOptions& options) : network(options) {
    for (int i = 0; i < 2; ++i) {
      inner.push_back(network.open(NodeId{i}));
      seen.push_back(std::make_unique<TaskTransport>(*inner.back(), executor));
    }
  }
  InprocNetwork network;
  std::vector<std::unique_ptr<Transport>> inner;
  std::vector<std::unique_ptr<TaskTransport>> seen;
};

Frame MakeFrame(FrameKind kind, uint64_t step) {
  Frame frame;
  frame.header.kind = kind;
  frame.header.step = StepId{step};
  return frame;
}

TEST(Executor, TasksRunByTurnsOnOneThread) {
  Executor executor;
  std::string order;
  std::set<std::thread::id> threads;
  const auto body = [&](char name) {
    return [&, name](Executor::Task& task) {
      for (int i = 0; i < 4; ++i) {
        order += name;
        threads.insert(std::this_thread::get_id());
        EXPECT_TRUE(task.let_others() || i == 3);
      }
    };
  };
  RunAll(executor, {body('a'), body('b'), body('c')});
  std::string sorted = order;
  std::ranges::sort(sorted);
  EXPECT_EQ(sorted, "aaaabbbbcccc");
  for (size_t i = 0; i + 1 < 9; ++i)
    EXPECT_NE(order[i], order[i + 1]) << order;  // Three each in turn, at least.
  EXPECT_EQ(threads.size(), 1u);
  EXPECT_FALSE(threads.contains(std::this_thread::get_id()));
}

TEST(Executor, ATaskThatWaitsHoldsNoOther) {
  Executor executor;
  bool ran = false;
  RunAll(executor, {[&](Executor::Task& task) {
                      while (!ran) task.wait(executor.wakeup()->announced(), Soon());
                    },
                    [&](Executor::Task&) {
                      ran = true;
                      executor.wakeup()->announce();
                    }});
  EXPECT_TRUE(ran);
}

TEST(Executor, AnAnnouncementThatWasNotSeenEndsTheWaitAtOnce) {
  Executor executor;
  bool came_back = false;
  RunAll(executor, {[&](Executor::Task& task) {
           const uint64_t seen = executor.wakeup()->announced();
           executor.wakeup()->announce();
           task.wait(seen, {Clock::time_point::max()});
           came_back = true;
         }});
  EXPECT_TRUE(came_back);
}

TEST(Executor, ASendToATaskWhoseWindowIsFullLetsItReceive) {
  Executor executor;
  Ends ends(executor, {.names = {"a", "b"}, .window = {.frames_max = 2}});
  RunAll(executor, {[&](Executor::Task& task) {
                      ends.seen[0]->bind(task);
                      for (uint64_t i = 0; i < 100; ++i) {
                        ASSERT_EQ(ends.seen[0]->send(NodeId{1}, MakeFrame(FrameKind::kStep, i), Soon()),
                                  absl::OkStatus());
                      }
                    },
                    [&](Executor::Task& task) {
                      ends.seen[1]->bind(task);
                      for (uint64_t i = 0; i < 100; ++i) {
                        const auto event = ends.seen[1]->receive(Soon());
                        ASSERT_TRUE(event.ok()) << ToString(event.status());
                        ASSERT_EQ(event->frame.header.step, StepId{i});
                      }
                    }});
}

TEST(Executor, ASendThatNobodyTakesInEndsAtItsDeadline) {
  Executor executor;
  Ends ends(executor, {.names = {"a", "b"}, .window = {.frames_max = 2}});
  absl::Status last;
  RunAll(executor, {[&](Executor::Task& task) {
           ends.seen[0]->bind(task);
           for (int i = 0; i < 3; ++i) {
             last = ends.seen[0]->send(NodeId{1}, MakeFrame(FrameKind::kStep, 0), Deadline::after_ms(20));
           }
         }});
  EXPECT_TRUE(absl::IsDeadlineExceeded(last)) << ToString(last);
  EXPECT_THAT(Message(last), HasSubstr("'b'"));
}

/// Asks the other 200 times, and answers it meanwhile, until both are through.
void AskAndServe(TaskTransport& node, NodeId other, int& unfinished) {
  uint64_t answered = 0;
  bool asked = false;
  while (unfinished > 0) {
    if (!asked && answered < 200) {
      ASSERT_EQ(node.send(other, MakeFrame(FrameKind::kExpertRequest, answered), Soon()), absl::OkStatus());
      asked = true;
    }
    const auto event = node.receive(Deadline::after_ms(10));
    if (absl::IsDeadlineExceeded(event.status())) continue;
    ASSERT_TRUE(event.ok()) << ToString(event.status());
    if (event->frame.header.kind == FrameKind::kExpertRequest) {
      const Frame answer = MakeFrame(FrameKind::kExpertReply, event->frame.header.step.value);
      ASSERT_EQ(node.send(other, answer, Soon()), absl::OkStatus());
      continue;
    }
    EXPECT_EQ(event->frame.header.step, StepId{answered});
    asked = false;
    if (++answered == 200) --unfinished;
  }
}

TEST(Executor, TasksThatNeedEachOtherServeWhileTheyWait) {
  Executor executor;
  Ends ends(executor, {.names = {"a", "b"}});
  int unfinished = 2;
  const auto body = [&](int32_t i) {
    return [&, i](Executor::Task& task) {
      ends.seen[static_cast<size_t>(i)]->bind(task);
      AskAndServe(*ends.seen[static_cast<size_t>(i)], NodeId{1 - i}, unfinished);
    };
  };
  RunAll(executor, {body(0), body(1)});
  EXPECT_EQ(ends.inner[0]->stats().peers[NodeId{1}].frames_received, 400u);
}

TEST(Executor, ClosingATransportEndsTheWaitOfItsTaskAlone) {
  Executor executor;
  Ends ends(executor, {.names = {"a", "b"}});
  const auto wait = [](TaskTransport& node) {
    return [&node](Executor::Task& task) {
      node.bind(task);
      absl::StatusOr<Event> event;
      do {
        event = node.receive(Soon());
      } while (event.ok());
      EXPECT_TRUE(absl::IsCancelled(event.status())) << ToString(event.status());
    };
  };
  const auto first = *executor.start(wait(*ends.seen[0]));
  const auto second = *executor.start(wait(*ends.seen[1]));
  ends.inner[0]->close();
  executor.join(*first);
  ends.inner[1]->close();
  executor.join(*second);
}

TEST(ExecutorGrpc, TwoNodesOfOneEndpointNeedEachOther) {
  const auto endpoint = GrpcEndpoint::start({});
  ASSERT_TRUE(endpoint.ok()) << ToString(endpoint.status());
  const std::string address = fmt::format("127.0.0.1:{}", (*endpoint)->port());
  Executor executor;
  std::vector<std::unique_ptr<Transport>> inner;
  std::vector<std::unique_ptr<TaskTransport>> seen;
  for (int32_t i = 0; i < 2; ++i) {
    SessionOptions session{.session = 1, .self = NodeId{i}, .identity = {"test/1", "hash", "f16"}};
    session.peers = {{NodeId{0}, "a", address}, {NodeId{1}, "b", address}};
    inner.push_back(*(*endpoint)->open_session(session));
    seen.push_back(std::make_unique<TaskTransport>(*inner.back(), executor));
  }
  int unfinished = 2;
  const auto body = [&](int32_t i) {
    return [&, i](Executor::Task& task) {
      seen[static_cast<size_t>(i)]->bind(task);
      AskAndServe(*seen[static_cast<size_t>(i)], NodeId{1 - i}, unfinished);
    };
  };
  RunAll(executor, {body(0), body(1)});
  EXPECT_EQ(inner[0]->stats().peers[NodeId{1}].frames_received, 400u);
}

/// What an executor's second thread sees of a task, and says of it.
struct Pulses {
  Executor::Pulse pulse() {
    return {[this] { return ++looks, progress.load(); }, [this] { ++beats; }, std::chrono::milliseconds(1)};
  }
  std::atomic<uint64_t> progress{0};
  std::atomic<int> looks{0};
  std::atomic<int> beats{0};
};

/// Computes as `step` says until `enough`, without a turn for others.
void Compute(const std::function<bool()>& enough, const std::function<void()>& step) {
  for (const Deadline deadline = Soon(); !enough() && !deadline.expired();) {
    step();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

TEST(Executor, WhoWaitsForATaskIsToldWhileItComputesWithinItsTurn) {
  Executor executor;
  Pulses pulses;
  const auto task = *executor.start(
      [&](Executor::Task&) { Compute([&] { return pulses.beats >= 5; }, [&] { ++pulses.progress; }); },
      pulses.pulse());
  executor.join(*task);
  EXPECT_GE(pulses.beats, 5);
  const int beats = pulses.beats;
  const int looks = pulses.looks;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(pulses.beats, beats) << "of a task that has ended";
  EXPECT_EQ(pulses.looks, looks);
}

TEST(Executor, NobodyIsToldOfATaskThatGetsNowhere) {
  Executor executor;
  Pulses pulses;
  const auto task = *executor.start(
      [&](Executor::Task&) { Compute([&] { return pulses.looks >= 20; }, [] {}); }, pulses.pulse());
  executor.join(*task);
  EXPECT_GE(pulses.looks, 20);
  EXPECT_LE(pulses.beats, 1);  // That its turn has begun is progress.
}

TEST(Executor, ATaskWhoseTurnDoesNotComeIsSpokenForByTheOneThatComputes) {
  Executor executor;
  Pulses computing;
  Pulses waiting;
  std::atomic<bool> over{false};
  const auto quiet = *executor.start(
      [&](Executor::Task& turns) {
        while (!over) turns.wait(executor.wakeup()->announced(), Deadline::after_ms(1));
      },
      waiting.pulse());
  const auto busy = *executor.start(
      [&](Executor::Task&) { Compute([&] { return waiting.beats >= 5; }, [&] { ++computing.progress; }); },
      computing.pulse());
  executor.join(*busy);
  over = true;
  executor.wakeup()->announce();
  executor.join(*quiet);
  EXPECT_GE(waiting.beats, 5);
}

}  // namespace
}  // namespace shoal
