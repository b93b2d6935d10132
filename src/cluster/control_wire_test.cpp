#include "cluster/control_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>

#include "base/status.h"

namespace shoal {
namespace {

using testing::HasSubstr;

OpenOrder Order() {
  OpenOrder order;
  order.session = 7;
  order.plan.nodes = {{.name = "a"}, {.name = "b"}};
  order.plan.stages = {{NodeId{0}, {0, 2}}};
  order.plan.experts.resize(2);
  order.node = NodeId{1};
  order.limits = {.context = 64, .blocks = 4, .rows_max = 16, .state_slots = 2};
  order.expert_timeout = std::chrono::milliseconds(1500);
  order.giver = {UINT64_MAX, true};
  return order;
}

TEST(ControlWire, AnOrderToOpenArrivesAsItWasSent) {
  const OpenOrder sent = Order();
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(got->session, sent.session);
  EXPECT_TRUE(got->plan == sent.plan);
  EXPECT_EQ(got->node, sent.node);
  EXPECT_EQ(got->limits.context, sent.limits.context);
  EXPECT_EQ(got->limits.blocks, sent.limits.blocks);
  EXPECT_EQ(got->limits.rows_max, sent.limits.rows_max);
  EXPECT_EQ(got->limits.state_slots, sent.limits.state_slots);
  EXPECT_EQ(got->expert_timeout, sent.expert_timeout);
  EXPECT_EQ(got->giver, sent.giver);
}

TEST(ControlWire, AnOrderToPrepareArrivesAsItWasSent) {
  const OpenOrder open = Order();
  const PrepareOrder sent{
      open.plan,   open.node, {"/models/m", "m"}, "00ff", {{3, 7, ""}, {4, UINT64_MAX, ""}},
      open.limits, {9, false}};
  v1::PrepareRequest request = ToProto(sent);
  const auto got = FromProto(request);
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_TRUE(got->plan == sent.plan);
  EXPECT_EQ(got->node, sent.node);
  EXPECT_EQ(got->model_names, sent.model_names);
  EXPECT_EQ(got->model_hash, sent.model_hash);
  ASSERT_EQ(got->samples.size(), 2u);
  EXPECT_EQ(got->samples[1].weight, 4);
  EXPECT_EQ(got->samples[1].hash, UINT64_MAX);
  EXPECT_EQ(got->limits.blocks, sent.limits.blocks);
  EXPECT_EQ(got->limits.state_slots, sent.limits.state_slots);
  EXPECT_EQ(got->giver, sent.giver);
  request.mutable_samples(1)->set_weight(3);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("ascending order, got 3 after 3"));
  while (request.samples_size() <= 512) request.add_samples();
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("513 samples"));
  request.clear_samples();
  request.set_rows_max(-1);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("rows -1"));
}

TEST(ControlWire, AnOrderToOpenWithLimitsBeyondReasonIsRefused) {
  const auto refusal = [](auto change) {
    v1::OpenRequest request = ToProto(Order());
    change(request);
    return Message(FromProto(request).status());
  };
  EXPECT_THAT(refusal([](auto& r) { r.set_node(2); }), HasSubstr("has 2 nodes"));
  EXPECT_THAT(refusal([](auto& r) { r.set_node(-1); }), HasSubstr("has 2 nodes"));
  EXPECT_THAT(refusal([](auto& r) { r.set_plan_json("{"); }), HasSubstr("the coordinator's plan"));
  EXPECT_THAT(refusal([](auto& r) { r.set_context(0); }), HasSubstr("context 0"));
  EXPECT_THAT(refusal([](auto& r) { r.set_blocks(-1); }), HasSubstr("blocks -1"));
  EXPECT_THAT(refusal([](auto& r) { r.set_rows_max(0); }), HasSubstr("rows 0"));
  EXPECT_THAT(refusal([](auto& r) { r.set_state_slots(-2); }), HasSubstr("state slots -2"));
  EXPECT_THAT(refusal([](auto& r) { r.set_expert_timeout_ms(0); }), HasSubstr("got 0"));
  // In nanoseconds it would not fit 64 bits.
  EXPECT_THAT(refusal([](auto& r) { r.set_expert_timeout_ms(INT64_MAX); }), HasSubstr("got 9223372036854"));
}

TEST(ControlWire, AWorkersStateArrivesAsItWasSentAndAnUnknownOneIsIdle) {
  for (const WorkerState state :
       {WorkerState::kIdle, WorkerState::kLoading, WorkerState::kReady, WorkerState::kServing}) {
    WorkerFacts facts;
    facts.state = state;
    EXPECT_EQ(FromProto(ToProto(facts)).state, state);
  }
  v1::DescribeReply reply;
  reply.set_state("serving");
  EXPECT_EQ(FromProto(reply).state, WorkerState::kServing);
  reply.set_state("dreaming");
  EXPECT_EQ(FromProto(reply).state, WorkerState::kIdle);
}

}  // namespace
}  // namespace shoal
