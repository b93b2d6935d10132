#include "cluster/control_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

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
  order.keep_from = UINT64_MAX - 1;
  order.places = {{BlockId{3}, {UINT64_MAX, 1}, 64}, {SlotId{0}, {2, UINT64_MAX}, 64, UINT64_MAX}};
  order.sources = {{"c", "10.0.0.3:50051", {0, 1}, "d"}};
  order.move_max = std::chrono::milliseconds(700);
  order.gives = true;
  order.copied = true;
  order.follows = {{"e", "10.0.0.5:50051", int64_t{1} << 40}};
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
  EXPECT_EQ(got->keep_from, sent.keep_from);
  EXPECT_EQ(got->places, sent.places);
  ASSERT_EQ(got->sources.size(), 1u);
  EXPECT_EQ(got->sources[0].name, "c");
  EXPECT_EQ(got->sources[0].address, "10.0.0.3:50051");
  EXPECT_EQ(got->sources[0].layers, (Range{0, 1}));
  EXPECT_EQ(got->move_max, sent.move_max);
  EXPECT_TRUE(got->gives);
  EXPECT_EQ(got->sources[0].copies_of, "d");
  EXPECT_TRUE(got->copied);
  ASSERT_EQ(got->follows.size(), 1u);
  EXPECT_EQ(got->follows[0].name, "e");
  EXPECT_EQ(got->follows[0].address, "10.0.0.5:50051");
  EXPECT_EQ(got->follows[0].bytes_max, int64_t{1} << 40);
}

TEST(ControlWire, WhomToFollowInASessionArrivesAndMustBeNodes) {
  FollowOrder sent{.model_hash = "abc", .session = UINT64_MAX, .follows = {{"e", "10.0.0.5:50051", 7}}};
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(got->model_hash, sent.model_hash);
  EXPECT_EQ(got->session, sent.session);
  ASSERT_EQ(got->follows.size(), 1u);
  EXPECT_EQ(got->follows[0].name, "e");
  EXPECT_EQ(got->follows[0].address, "10.0.0.5:50051");
  EXPECT_EQ(got->follows[0].bytes_max, 7);
  sent.follows[0].bytes_max = -1;
  EXPECT_FALSE(FromProto(ToProto(sent)).ok());
  sent.follows[0] = {"no node's name", "10.0.0.5:50051", 7};
  EXPECT_FALSE(FromProto(ToProto(sent)).ok());
}

TEST(ControlWire, WhatIsMissingArrivesAndIsAmongThePlacesThatWereNamed) {
  const OpenAnswer sent{.keeps_cache = true, .missing = {0, 2}};
  const auto got = FromProto(ToProto(sent), 3);
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_TRUE(got->keeps_cache);
  EXPECT_EQ(got->missing, sent.missing);
  EXPECT_THAT(Message(FromProto(ToProto(sent), 2).status()), HasSubstr("place 2 is missing"));
  EXPECT_THAT(Message(FromProto(ToProto(OpenAnswer{true, {1, 1}}), 3).status()),
              HasSubstr("place 1 is missing"));
  EXPECT_THAT(Message(FromProto(ToProto(OpenAnswer{true, {-1}}), 3).status()),
              HasSubstr("place -1 is missing"));
}

TEST(ControlWire, ACopyArrivesAsItWasSent) {
  const std::vector<std::byte> images = {std::byte{1}, std::byte{2}};
  const CopyPiece sent{UINT64_MAX, Order().places[1], true, images};
  v1::CachePiece piece = ToProto(sent);
  const auto got = FromProto(piece);
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(got->number, sent.number);
  EXPECT_EQ(got->place, sent.place);
  EXPECT_TRUE(got->last);
  EXPECT_TRUE(std::ranges::equal(got->images, images));
  piece.mutable_place()->set_id(-1);
  EXPECT_THAT(Message(FromProto(piece).status()), HasSubstr("place -1"));
}

TEST(ControlWire, AnOrderToKeepCopiesBeyondReasonIsRefused) {
  v1::OpenRequest request = ToProto(Order());
  request.mutable_follows(0)->set_bytes_max(-1);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("-1 bytes of copies"));
  request.mutable_follows(0)->set_bytes_max(1);
  request.mutable_follows(0)->set_name(std::string(300, 'x'));
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("300 bytes"));
  request.mutable_follows(0)->set_name("x");
  while (request.follows_size() <= 4096) *request.add_follows() = request.follows(0);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("4097 nodes"));
}

TEST(ControlWire, ARequestForACacheArrivesAsItWasSent) {
  const CacheRequest sent{UINT64_MAX, {1, UINT64_MAX}, {2, 5}, Order().places, "d"};
  v1::FetchCacheRequest request = ToProto(sent, "00ff");
  EXPECT_EQ(request.model_hash(), "00ff");
  const auto got = FromProto(request);
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(got->session, sent.session);
  EXPECT_EQ(got->identity, sent.identity);
  EXPECT_EQ(got->layers, sent.layers);
  EXPECT_EQ(got->places, sent.places);
  EXPECT_EQ(got->copies_of, "d");
  request.mutable_places(0)->set_id(-1);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("place -1"));
  request.mutable_places(0)->set_id(0);
  request.set_layers_end(2);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("layers [2, 2)"));
  request.set_layers_end(3);
  while (request.places_size() <= kCachedPlacesMax) request.add_places();
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("100001 places"));
}

TEST(ControlWire, AnOrderToMoveCachesBeyondReasonIsRefused) {
  v1::OpenRequest request = ToProto(Order());
  request.set_move_ms(-1);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("-1 ms"));
  request.set_move_ms(0);
  request.mutable_sources(0)->set_layers_begin(-1);
  EXPECT_THAT(Message(FromProto(request).status()), HasSubstr("layers [-1, 1)"));
}

TEST(ControlWire, AnOrderToPrepareArrivesAsItWasSent) {
  const OpenOrder open = Order();
  const PrepareOrder sent{
      open.plan,   open.node,  {"/models/m", "m"}, "00ff", {{3, 7, ""}, {4, UINT64_MAX, ""}},
      open.limits, {9, false}, "content",          true};
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
  EXPECT_EQ(got->weights_content, sent.weights_content);
  EXPECT_TRUE(got->beside);
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

TEST(ControlWire, WhatAWorkerTellsOfItsExpertsArrives) {
  WorkerFacts facts;
  EXPECT_FALSE(FromProto(ToProto(facts)).expert_tier.has_value());
  facts.expert_memory = 1 << 20;
  facts.expert_tier = ExpertTierStats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const WorkerFacts arrived = FromProto(ToProto(facts));
  EXPECT_EQ(arrived.expert_tier, facts.expert_tier);
  EXPECT_EQ(arrived.expert_memory, facts.expert_memory);
  v1::DescribeReply reply;
  reply.set_expert_memory(-5);
  EXPECT_EQ(FromProto(reply).expert_memory, 0);
}

TEST(ControlWire, LinksOfAWorkerArriveButForThoseThatAreNoLabels) {
  WorkerFacts facts;
  facts.links = {{"mini3", 1 << 30, 7, 4096}, {"coordinator", 12, 1, 0}};
  v1::DescribeReply reply = ToProto(facts);
  EXPECT_EQ(FromProto(reply).links, facts.links);
  reply.add_links()->set_to("a\nb");
  reply.mutable_links(1)->set_bytes_sent(-12);
  facts.links[1].bytes_sent = 0;
  EXPECT_EQ(FromProto(reply).links, facts.links);
}

TEST(ControlWire, RatesArriveAsTheyWereSentAndImpossibleOnesNotAtAll) {
  WorkerFacts facts;
  EXPECT_FALSE(FromProto(ToProto(facts)).rates.has_value());
  facts.rates = ThreadRates{.threads = 8,
                            .read_gbs = 40.5,
                            .int8_gops = 700,
                            .f32_gflops = 200,
                            .wake_us = 1.5,
                            .attention_gbs = 30,
                            .attention_gflops = 140,
                            .handover_us = 25,
                            .draw_ns = 4,
                            .int8_few_gops = 90};
  EXPECT_EQ(FromProto(ToProto(facts)).rates, facts.rates);
  v1::DescribeReply reply = ToProto(facts);
  reply.mutable_rates()->set_attention_gbs(-1);
  EXPECT_FALSE(FromProto(reply).rates.has_value());
  reply.mutable_rates()->set_attention_gbs(0);  // Of an older worker.
  EXPECT_TRUE(FromProto(reply).rates.has_value());
  reply.mutable_rates()->set_read_gbs(0);
  EXPECT_FALSE(FromProto(reply).rates.has_value());
  reply.mutable_rates()->set_read_gbs(std::numeric_limits<double>::infinity());
  EXPECT_FALSE(FromProto(reply).rates.has_value());
}

JoinOffer Offer() {
  return {.name = "mini2",
          .instance = UINT64_MAX,
          .addresses = {"10.0.0.2:50051", "[fd00::2]:50051"},
          .rank = 3,
          .port = 50051};
}

TEST(ControlWire, AnOfferToJoinAndItsAnswerArriveAsTheyWereSent) {
  JoinOffer sent = Offer();
  auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(*got, sent);
  sent.rank.reset();
  got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(*got, sent);
  const JoinAnswer answer{"coordinator", "10.0.0.2:50051", std::chrono::seconds(6)};
  const auto answered = FromProto(ToProto(answer));
  ASSERT_TRUE(answered.ok()) << Message(answered.status());
  EXPECT_EQ(*answered, answer);
}

TEST(ControlWire, AnOfferThatNoPlanCouldHoldIsRefused) {
  const auto refusal = [](auto change) {
    v1::JoinRequest request = ToProto(Offer());
    change(request);
    return Message(FromProto(request).status());
  };
  EXPECT_THAT(refusal([](auto& r) { r.set_name(""); }), HasSubstr("expected a name"));
  EXPECT_THAT(refusal([](auto& r) { r.set_name("mini 2"); }), HasSubstr("expected a name"));
  EXPECT_THAT(refusal([](auto& r) { r.set_name(std::string(257, 'a')); }), HasSubstr("1 to 256"));
  EXPECT_THAT(refusal([](auto& r) { r.set_instance(0); }), HasSubstr("instance"));
  EXPECT_THAT(refusal([](auto& r) { r.set_addresses(0, "10.0.0.2"); }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(refusal([](auto& r) { r.set_addresses(0, "10.0.0.2:0"); }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(refusal([](auto& r) { r.set_addresses(0, "a\nb:1"); }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(refusal([](auto& r) {
                for (int i = 0; i < 16; ++i) r.add_addresses("10.0.0.2:1");
              }),
              HasSubstr("at most 16 addresses, got 18"));
  EXPECT_THAT(refusal([](auto& r) { r.set_rank(0); }), HasSubstr("rank of 1 to 4095, got 0"));
  EXPECT_THAT(refusal([](auto& r) { r.set_rank(4096); }), HasSubstr("got 4096"));
  EXPECT_THAT(refusal([](auto& r) { r.set_port(65536); }), HasSubstr("expected a port"));
  EXPECT_THAT(refusal([](auto& r) {
                r.clear_addresses();
                r.set_port(0);
              }),
              HasSubstr("expected an address"));
}

TEST(ControlWire, ACheckOfPeersArrivesAsItWasSentAndHasBounds) {
  const PeerCheck sent{.peers = {{"mini2", "10.0.0.2:50051", 7}, {"mini3", "[fd00::3]:1", 0}},
                       .probe_bytes = 1 << 20,
                       .timeout = std::chrono::seconds(4)};
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(*got, sent);
  const auto refusal = [&](auto change) {
    v1::CheckPeersRequest request = ToProto(sent);
    change(request);
    return Message(FromProto(request).status());
  };
  EXPECT_THAT(refusal([](auto& r) { r.set_probe_bytes(INT64_MAX); }), HasSubstr("at most 4096"));
  EXPECT_THAT(refusal([](auto& r) { r.set_probe_bytes(-1); }), HasSubstr("with -1 B"));
  EXPECT_THAT(refusal([](auto& r) { r.set_timeout_ms(0); }), HasSubstr("within 0 ms"));
  EXPECT_THAT(refusal([](auto& r) { r.set_timeout_ms(INT64_MAX); }), HasSubstr("60000 ms"));
  EXPECT_THAT(refusal([](auto& r) { r.mutable_peers(0)->set_address("10.0.0.2"); }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(refusal([](auto& r) { r.mutable_peers(0)->set_name("a b"); }), HasSubstr("names of nodes"));
}

TEST(ControlWire, TheUseOfExpertsArrivesAsItWasSentAndHasBounds) {
  const std::vector<LayerUseCount> sent = {
      {LayerId{2}, {.top_k = 2, .rows = {5, 3, 0, 2}, .sample = {0, 1, 1, 3}}, {5, 1, 6, 2}},
      {LayerId{7}, {.top_k = 1, .rows = {1}, .sample = {}}, {1, 1, 0, 0}}};
  const auto got = FromProto(ToProto(sent));
  ASSERT_TRUE(got.ok()) << Message(got.status());
  EXPECT_EQ(*got, sent);
  const auto refusal = [&](auto change) {
    v1::ExpertUseReply reply = ToProto(sent);
    change(*reply.mutable_layers(0));
    return Message(FromProto(reply).status());
  };
  EXPECT_THAT(refusal([](auto& l) { l.set_layer(4096); }), HasSubstr("layer 4096 of 4 experts"));
  EXPECT_THAT(refusal([](auto& l) { l.set_top_k(5); }), HasSubstr("5 experts per row of 4"));
  EXPECT_THAT(refusal([](auto& l) { l.set_top_k(257); }), HasSubstr("257 per row"));
  EXPECT_THAT(refusal([](auto& l) { l.set_sample(3, 4); }), HasSubstr("expected ascending ids below 4"));
  EXPECT_THAT(refusal([](auto& l) { l.set_sample(0, 1 << 16); }), HasSubstr("expert 65536 of layer 2"));
  EXPECT_THAT(refusal([](auto& l) { l.add_sample(1); }), HasSubstr("a sample of 5 ids"));
  EXPECT_THAT(refusal([](auto& l) { l.set_rows(0, UINT64_MAX); }), HasSubstr("rows at most"));
}

TEST(ControlWire, AnAnswerThatALeaseCannotBeReadFromIsRefused) {
  v1::JoinReply reply;
  reply.set_coordinator("coordinator");
  reply.set_address("10.0.0.2:50051");
  for (const int64_t lease : {INT64_MIN, int64_t{0}, int64_t{99}, int64_t{3'600'001}, INT64_MAX}) {
    reply.set_lease_ms(lease);
    EXPECT_THAT(Message(FromProto(reply).status()), HasSubstr(fmt::format("got {} ms", lease)));
  }
}

}  // namespace
}  // namespace shoal
