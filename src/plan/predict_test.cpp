#include "plan/predict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/plan_test_models.h"
#include "plan/planner.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// 10 GB/s; multiplying and waking take nothing, unless a test says otherwise.
constexpr ThreadRates kReader = {.threads = 1, .read_gbs = 10, .int8_gops = 1e9, .f32_gflops = 1e9};

std::vector<NodeFacts> Measured(size_t count, const ThreadRates& rates = kReader) {
  std::vector<NodeFacts> nodes = Nodes(std::vector<int64_t>(count, 0));
  for (NodeFacts& node : nodes) node.rates = rates;
  return nodes;
}

/// All pairs of n0, n1, ... alike.
std::vector<LinkFacts> Links(size_t count, double rtt_us, double mbs = 0) {
  std::vector<LinkFacts> links;
  for (size_t a = 0; a < count; ++a) {
    for (size_t b = a + 1; b < count; ++b) {
      links.push_back({"n" + std::to_string(a), "n" + std::to_string(b), rtt_us, mbs});
    }
  }
  return links;
}

/// A plan and everything that is predicted with.
struct Case {
  ModelFacts model;
  std::vector<NodeFacts> nodes;
  std::vector<LinkFacts> links;
  PlanRequest request;

  template <typename Ask>
  auto predict(Ask ask) const {
    const auto plan = MakePlan(model, nodes, request);
    EXPECT_TRUE(plan.ok()) << ToString(plan.status());
    const auto machines = Machines::Of(*plan, nodes, links);
    EXPECT_TRUE(machines.ok()) << ToString(machines.status());
    return ask(Predictor(*plan, model, *machines));
  }
  double latency_s() const {
    return predict([](const Predictor& p) { return p.step(DecodeLoad(1, 0)).latency_s(); });
  }
};

Case Dense(size_t nodes, double rtt_us = 0, double mbs = 0) {
  return {DenseModel(6), Measured(nodes), Links(nodes, rtt_us, mbs), {.strategy = LayerStrategy::kUniform}};
}

TEST(Predict, AReaderTakesTheBytesOfEveryLayerAndTheHeadAtItsRate) {
  const double bytes = 6 * 10.0 * kMiB + 6.0 * kMiB;
  const StepTime step = Dense(1).predict([](const Predictor& p) { return p.step(DecodeLoad(1, 0)); });
  EXPECT_NEAR(step.nodes[0].work.read_s, bytes / 10e9, 1e-6);
  EXPECT_EQ(step.nodes[0].work.bound(), Bound::kRead);
  EXPECT_EQ(step.hops_s, SchedulerTurnS(kReader));
}

TEST(Predict, CachedPositionsAreReadInEveryLayer) {
  const auto read_s = [](double context) {
    return Dense(1).predict(
        [&](const Predictor& p) { return p.step(DecodeLoad(2, context)).nodes[0].work.read_s; });
  };
  const double bytes = 2 * 1000.0 * 6 * 1024 * 2;  // Sequences, positions, layers, values, bytes of each.
  EXPECT_GT(read_s(1000) - read_s(0), bytes / 10e9);
  EXPECT_LT(read_s(1000) - read_s(0), 2 * bytes / 10e9);
}

TEST(Predict, AttentionTakesWhatWasMeasuredOfIt) {
  Case one = Dense(1);
  const auto attention_s = [&](double rows) {
    return one.predict([&](const Predictor& p) {
      const auto work = [&](double before) { return p.step(PrefillLoad(rows, before, false)).nodes[0].work; };
      return work(1000).seconds() - work(0).seconds();
    });
  };
  for (LayerFacts& layer : one.model.layers) layer.attention_multiplies = 4096;
  one.nodes[0].rates->attention_gbs = 5;
  one.nodes[0].rates->attention_gflops = 1e9;
  const double bytes = 1000.0 * 6 * 1024 * 2;  // Positions, layers, values, bytes of each.
  EXPECT_NEAR(attention_s(1), bytes / 5e9, 1e-6);
  one.nodes[0].rates->attention_gbs = 1e9;
  one.nodes[0].rates->attention_gflops = 40;
  EXPECT_NEAR(attention_s(256), 2 * 256 * 1000.0 * 6 * 4096 / 40e9, 1e-3);
}

TEST(Predict, RowsThatPickReadWhatTheyPickAndWhatTheyPickBy) {
  Case one = Dense(1);
  const auto attention_s = [&](double context) {
    return one.predict([&](const Predictor& p) {
      const auto work = [&](double before) { return p.step(DecodeLoad(1, before)).nodes[0].work.seconds(); };
      return work(context) - work(0);
    });
  };
  for (LayerFacts& layer : one.model.layers) {
    layer.attended_max = 2048;
    layer.index_values_per_position = 24;
  }
  one.nodes[0].rates->attention_gbs = 5;
  one.nodes[0].rates->attention_gflops = 1e9;
  const double layers_s = 6 * 2 / 5e9;  // Of one value of each layer.
  EXPECT_NEAR(attention_s(1000), 1000.0 * 1000 * layers_s, 1e-5);
  EXPECT_NEAR(attention_s(9000), (2048.0 * 1000 + 9000.0 * 24) * layers_s, 1e-5);
}

TEST(Predict, AStepIsHandedOverTwiceAndEachTokenDrawnFromAllIds) {
  Case one = Dense(1);
  one.model.head_multiplies = one.model.hidden * 100'000;
  const auto overhead_s = [&](double batch) {
    return one.predict([&](const Predictor& p) {
      const StepTime step = p.step(DecodeLoad(batch, 0));
      return step.hops_s + step.nodes[0].work.overhead_s;
    });
  };
  const double before_s = overhead_s(1);
  one.nodes[0].rates->handover_us = 120;  // 20 where it is not known.
  EXPECT_NEAR(overhead_s(1) - before_s, 2 * 100e-6, 1e-9);
  const double row_s = overhead_s(2) - overhead_s(1);
  one.nodes[0].rates->draw_ns = 10.33;  // 0.33 likewise.
  EXPECT_NEAR(overhead_s(2) - overhead_s(1) - row_s, 100'000 * 10e-9, 1e-6);
}

TEST(Predict, ManyRowsAreBoundByMultiplying) {
  Case one = Dense(1);
  for (NodeFacts& node : one.nodes) node.rates->int8_gops = 100;
  for (LayerFacts& layer : one.model.layers) layer.int8_multiplies = 20'000'000;
  const StepTime step = one.predict([](const Predictor& p) { return p.step(PrefillLoad(256, 0, false)); });
  EXPECT_EQ(step.nodes[0].work.bound(), Bound::kMultiply);
  EXPECT_NEAR(step.nodes[0].work.multiply_s, 6 * 256 * 2 * 20e6 / 100e9, 0.01);
}

TEST(Predict, FewRowsAreMultipliedAtTheRateOfFew) {
  const auto multiply_s = [](double rows, double few_gops) {
    Case one = Dense(1);
    for (NodeFacts& node : one.nodes) {
      node.rates->int8_gops = 100;
      node.rates->int8_few_gops = few_gops;
    }
    for (LayerFacts& layer : one.model.layers) layer.int8_multiplies = 20'000'000;
    return one.predict(
        [&](const Predictor& p) { return p.step(PrefillLoad(rows, 0, false)).nodes[0].work.multiply_s; });
  };
  const double row_s = 6 * 2 * 20e6 / 100e9;
  EXPECT_NEAR(multiply_s(16, 50), 16 * 2 * row_s, 0.01);
  EXPECT_NEAR(multiply_s(256, 50), 256 * row_s, 0.01);
  // A weight takes the time of some 17 rows once, and then that of each row.
  EXPECT_NEAR(multiply_s(136, 50), (32 + (256 - 32) * 0.5) * row_s, 0.01);
  EXPECT_NEAR(multiply_s(16, 0), 16 * row_s, 0.01);  // Not measured.
}

TEST(Predict, ChunksOfAPromptWaitForTheLinkThatCarriesThem) {
  const auto ttft_s = [](double mbs) {
    Case two = Dense(2, 0, mbs);
    return two.predict([](const Predictor& p) { return p.ttft_s(2048); });
  };
  const double bytes = 2048.0 * 128 * 4;  // Positions, D, bytes of each.
  EXPECT_GT(ttft_s(1), bytes / 1e6);
  EXPECT_LT(ttft_s(1), bytes / 1e6 + 2 * ttft_s(0));
}

TEST(Predict, EachHopCostsHalfARoundTripAndItsBytes) {
  const double alone_s = Dense(1).latency_s();
  const double free_s = Dense(3).latency_s();
  EXPECT_NEAR(free_s - alone_s, 2 * StageOverhead().seconds(), 1e-6);  // Two stages more.
  // Coordinator to itself nothing, two hops on, the result back.
  EXPECT_NEAR(Dense(3, 1000).latency_s() - free_s, 3 * 500e-6, 1e-9);
  // A row of 128 floats and its header over 1 MB/s, twice; the result's bytes as well.
  EXPECT_NEAR(Dense(3, 0, 1).latency_s() - free_s, (2 * (128 * 4 + 128) + 4 + 128) * 1e-6, 1e-8);
}

TEST(Predict, StepsInFlightKeepAllStagesAtWork) {
  const auto decode = [](const Case& of) {
    return of.predict([](const Predictor& p) { return p.decode(16, 0); });
  };
  const auto one = decode(Dense(1));
  const auto two = decode(Dense(2));
  EXPECT_EQ(one.steps, 1);
  // Readers read their weights for each step: two steps in flight gain nothing that both stages do not.
  EXPECT_NEAR(two.period_s, one.period_s, 0.1 * one.period_s);
  Case busy = Dense(2);
  for (NodeFacts& node : busy.nodes) node.rates->int8_gops = 10;
  for (LayerFacts& layer : busy.model.layers) layer.int8_multiplies = 20'000'000;
  Case alone = busy;
  alone.nodes.resize(1);
  EXPECT_EQ(decode(busy).steps, 2);
  EXPECT_LT(decode(busy).period_s, 0.6 * decode(alone).period_s);
}

TEST(Predict, ChunksOfAPromptFollowOneAnotherThroughTheStages) {
  const auto ttft = [](size_t nodes) {
    Case of = Dense(nodes);
    for (NodeFacts& node : of.nodes) node.rates->int8_gops = 10;
    for (LayerFacts& layer : of.model.layers) layer.int8_multiplies = 20'000'000;
    return of.predict([](const Predictor& p) { return p.ttft_s(2048); });
  };
  EXPECT_LT(ttft(2), 0.65 * ttft(1));
  EXPECT_GT(ttft(2), 0.5 * ttft(1));
  EXPECT_LT(ttft(3), ttft(2));
}

TEST(Predict, RowsMeetFewDistinctExpertsAtFirstAndAllInTheEnd) {
  const ModelFacts model = MoeModel(2, 8);  // 4 of 8 experts of 1 MiB.
  const auto bytes = [&](double rows, double share) {
    return 10e9 * ExpertTime(model, 1, kReader, rows, share, {}).seconds() / kMiB;
  };
  EXPECT_NEAR(bytes(1, 1), 4, 1e-3);
  EXPECT_NEAR(bytes(2, 1), 6, 1e-3);  // 8 (1 - 1/4).
  EXPECT_NEAR(bytes(100, 1), 8, 1e-3);
  EXPECT_NEAR(bytes(2, 0.25), 1.5, 1e-3);
  EXPECT_EQ(ExpertTime(model, 0, kReader, 5, 1, {}).seconds(), 0);  // A dense layer.
}

TEST(Predict, ExpertsElsewhereWorkBesideOnesOwn) {
  const ModelFacts model = MoeModel(2, 8);
  const std::vector<NodeFacts> nodes = Measured(2);
  const auto exchange = [&](double rtt_us, double mbs) {
    const Machines machines(nodes, Links(2, rtt_us, mbs));
    return ExchangeOf(model, machines, {.layer = 1, .home = 0, .rows = 16}, {0.5, 0.5}, {});
  };
  // Both take as long, so without a network only the exchange itself is waited for.
  const ExchangeTime quick = exchange(0, 0);
  EXPECT_LT(quick.wait_s, 200e-6);
  EXPECT_GT(quick.serve_s[1], 0);
  EXPECT_EQ(quick.serve_s[0], 0);
  EXPECT_NEAR(exchange(5000, 0).wait_s - quick.wait_s, 5e-3, 1e-4);
  EXPECT_GT(exchange(0, 1).wait_s, quick.wait_s + 10e-3);  // 16 rows there and back at 1 MB/s.
}

TEST(Predict, AFasterNodeOrLinkIsNeverSlower) {
  Case of{MoeModel(6, 8), Measured(3), Links(3, 500, 50), {.strategy = LayerStrategy::kUniform}};
  of.request.experts.strategy = ExpertStrategy::kRoundRobin;
  const auto all = [](const Case& c) {
    return c.predict([](const Predictor& p) {
      return std::vector<double>{p.step(DecodeLoad(1, 100)).latency_s(), p.decode(16, 100).period_s,
                                 p.ttft_s(500)};
    });
  };
  const std::vector<double> before = all(of);
  for (size_t i = 0; i < of.nodes.size(); ++i) {
    Case faster = of;
    faster.nodes[i].rates->read_gbs *= 2;
    const std::vector<double> after = all(faster);
    for (size_t k = 0; k < before.size(); ++k) EXPECT_LE(after[k], before[k]) << i << " " << k;
  }
  Case closer = of;
  closer.links = Links(3, 100, 100);
  const std::vector<double> after = all(closer);
  for (size_t k = 0; k < before.size(); ++k) EXPECT_LT(after[k], before[k]) << k;
}

TEST(Predict, ANodeWithoutRatesIsNamed) {
  std::vector<NodeFacts> nodes = Measured(2);
  nodes[1].rates.reset();
  const auto plan = MakePlan(DenseModel(4), nodes, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(Message(Machines::Of(*plan, nodes, {}).status()), HasSubstr("'n1'"));
}

TEST(Predict, LinksThatWereNotMeasuredAreAssumedAndSaid) {
  const std::vector<NodeFacts> nodes = Measured(3);
  EXPECT_FALSE(Machines(nodes, {}).all_links_known());
  EXPECT_TRUE(Machines(nodes, Links(3, 100)).all_links_known());
  EXPECT_NEAR(Machines(nodes, {}).message_s(0, 1, 0), 0.5e-6 * kAssumedLink.rtt_us, 5e-6);
}

}  // namespace
}  // namespace shoal
