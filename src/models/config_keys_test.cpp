// Every key of every family's config, left out, null, or in a place where the reference does not read it: taken as the
// reference takes it, or refused by name, and never something in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "models/family.h"

namespace shoal {
namespace {

using Json = nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;

/// The model type and numbers of a spec as text; what loading and computing read of it, as far as numbers say.
std::string Fingerprint(const ModelSpec& spec) {
  std::string text = fmt::format("{} {} {} {} {} {} {} {}", spec.width, spec.vocabulary, spec.max_positions,
                                 spec.embedding_scale, spec.tied_head, spec.logits_scale,
                                 spec.final_logit_softcap, spec.final_norm.eps);
  for (const LayerSpec& layer : spec.layers) {
    text += fmt::format("\n{} {} {}", layer.mixer.index(), layer.residual_scale, layer.parallel);
    if (layer.mixer_norm) text += fmt::format(" norm {}", layer.mixer_norm->eps);
    const RopeSpec* rope = PositionRopeOf(layer.mixer);
    if (rope != nullptr) {
      text += fmt::format(" rope {} {} {} {} {}", rope->theta, rope->dims, rope->magnitude,
                          rope->scaling.index(), static_cast<int>(rope->pairing));
    }
    if (const auto* gqa = std::get_if<GqaSpec>(&layer.mixer)) {
      text += fmt::format(" gqa {} {} {} {} {} {} {}", gqa->heads, gqa->kv_heads, gqa->head_dim,
                          gqa->scale.value_or(-1), gqa->window.value_or(-1), gqa->chunk.value_or(-1),
                          gqa->score_softcap);
    }
    if (const MoeSpec* moe = MoeOf(layer)) {
      text += fmt::format(" moe {} {} {} {} {} {} {}", moe->experts.size(), moe->top_k,
                          moe->router.routed_scaling_factor, static_cast<int>(moe->router.scores),
                          static_cast<int>(moe->router.weighting), moe->router.groups.count,
                          moe->router.groups.topk_group);
    }
    if (const DenseSpec* dense = DenseOf(layer))
      text += fmt::format(" dense {} {}", dense->width, dense->limit);
  }
  ForEachWeight(spec, [&](const WeightUse& use) {
    text += fmt::format("\n{}", use.ref.sources[0].name());
    for (const int64_t size : use.ref.shape) text += fmt::format(" {}", size);
  });
  return text;
}

/// What becomes of a config: a fingerprint, or an error.
struct Outcome {
  bool ok = false;
  std::string text;
};
Outcome OutcomeOf(const Json& config) {
  const auto parsed = ModelConfig::Parse(config.dump(), "config.json");
  if (!parsed.ok()) return {false, std::string(Message(parsed.status()))};
  const auto spec = SpecFor(*parsed);
  if (!spec.ok()) return {false, std::string(Message(spec.status()))};
  return {true, Fingerprint(*spec)};
}

/// Without the nearest key, which is none where the key itself is there and null.
std::string WithoutAdvice(const std::string& text) { return text.substr(0, text.find(" (nearest")); }

/// The object whose keys the text model reads.
Json& TextOf(Json& config) { return config.contains("text_config") ? config["text_config"] : config; }

/// Keys that nothing here computes with.
bool IsNamed(const std::string& key) {
  return key == "bos_token_id" || key == "eos_token_id" || key == "text_config";
}

class ConfigKeys : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto family = FindFamily(GetParam());
    ASSERT_TRUE(family.ok()) << family.status();
    config_ = Json::parse((*family)->tiny());
    const Outcome usual = OutcomeOf(config_);
    ASSERT_TRUE(usual.ok) << usual.text;
    for (const auto& [key, value] : TextOf(config_).items()) {
      if (!IsNamed(key)) keys_.push_back(key);
    }
  }

  Json config_;
  std::vector<std::string> keys_;
};

TEST_P(ConfigKeys, LeftOutAreTheReferencesOrRefusedByName) {
  for (const std::string& key : keys_) {
    SCOPED_TRACE(key);
    Json without = config_;
    TextOf(without).erase(key);
    const Outcome absent = OutcomeOf(without);
    // Of a key that others depend on, the error may name one of those.
    if (!absent.ok) {
      EXPECT_THAT(absent.text, HasSubstr("config.json: '"));
    }
    Json with_null = config_;
    TextOf(with_null)[key] = nullptr;
    const Outcome null = OutcomeOf(with_null);
    EXPECT_EQ(null.ok, absent.ok) << null.text << "\n" << absent.text;
    EXPECT_EQ(WithoutAdvice(null.text), WithoutAdvice(absent.text));
  }
}

TEST_P(ConfigKeys, InATextConfigThatTheFamilyDoesNotHaveAreLeftOut) {
  if (config_.contains("text_config") || GetParam() == "qwen2_5_vl") return;  // Which may have one.
  for (const std::string& key : keys_) {
    if (key == "model_type") continue;
    SCOPED_TRACE(key);
    Json without = config_;
    without.erase(key);
    Json nested = without;
    nested["text_config"] = {{key, config_[key]}};
    const Outcome absent = OutcomeOf(without);
    const Outcome moved = OutcomeOf(nested);
    // The reference of a family without a text_config does not read one.
    EXPECT_EQ(WithoutAdvice(moved.text), WithoutAdvice(absent.text));
  }
}

TEST_P(ConfigKeys, AroundTheTextConfigAreLeftOutExceptTies) {
  if (!config_.contains("text_config")) return;
  for (const std::string& key : keys_) {
    if (key == "model_type" || key == "tie_word_embeddings") continue;
    SCOPED_TRACE(key);
    Json without = config_;
    without["text_config"].erase(key);
    Json around = without;
    around[key] = config_["text_config"][key];
    EXPECT_EQ(OutcomeOf(around).text, OutcomeOf(without).text);
  }
}

/// Keys of rope that the reference reads inside rope_parameters.
bool IsOfRope(const std::string& key) { return key == "rope_theta" || key == "partial_rotary_factor"; }

TEST_P(ConfigKeys, InRopeParametersAreHonouredThereOrRefusedByName) {
  Json& text = TextOf(config_);
  if (text.contains("rope_parameters")) return;
  const Outcome usual = OutcomeOf(config_);
  for (const std::string& key : keys_) {
    if (!IsOfRope(key) || text[key].is_null()) continue;
    SCOPED_TRACE(key);
    Json moved = config_;
    Json& of = TextOf(moved);
    Json rope = {{"rope_type", "default"}};
    if (of.contains("rope_scaling") && of["rope_scaling"].is_object()) rope = of["rope_scaling"];
    rope[key] = of[key];
    if (key != "rope_theta" && of.contains("rope_theta")) rope["rope_theta"] = of["rope_theta"];
    of.erase(key);
    of.erase("rope_scaling");
    of["rope_parameters"] = rope;
    const Outcome there = OutcomeOf(moved);
    if (there.ok) {
      EXPECT_EQ(there.text, usual.text);
    } else {
      EXPECT_THAT(there.text, AnyOf(HasSubstr(key), HasSubstr("rope_parameters")));
    }
  }
}

std::vector<std::string> AllFamilies() {
  std::vector<std::string> names;
  for (const Family* family : Families()) names.emplace_back(family->model_type);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Families, ConfigKeys, testing::ValuesIn(AllFamilies()),
                         [](const auto& tested) { return tested.param; });

TEST(ConfigDefaults, ARopeThatTheReferenceMakesUpWholeIsNoThetaAlone) {
  for (const char* name : {"apertus", "gpt_oss", "mimo_v2_flash"}) {
    SCOPED_TRACE(name);
    const auto family = FindFamily(name);
    ASSERT_TRUE(family.ok());
    Json config = Json::parse((*family)->tiny());
    for (const char* key : {"rope_theta", "rope_scaling"}) config.erase(key);
    const Outcome outcome = OutcomeOf(config);
    EXPECT_FALSE(outcome.ok);
    EXPECT_THAT(outcome.text, HasSubstr("'rope_theta'"));
  }
}

TEST(ConfigDefaults, AnOldLlamaConfigHasTheReferencesThetaAndAsManyKeyHeadsAsHeads) {
  const auto llama = FindFamily("llama");
  ASSERT_TRUE(llama.ok());
  Json config = Json::parse((*llama)->tiny());
  for (const char* key : {"rope_theta", "rope_scaling", "num_key_value_heads", "tie_word_embeddings"})
    config.erase(key);
  const auto parsed = ModelConfig::Parse(config.dump(), "config.json");
  ASSERT_TRUE(parsed.ok());
  const auto spec = SpecFor(*parsed);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const GqaSpec& gqa = std::get<GqaSpec>(spec->layers[0].mixer);
  EXPECT_EQ(gqa.rope.theta, 10000);
  EXPECT_EQ(gqa.kv_heads, gqa.heads);
  EXPECT_FALSE(spec->tied_head);
}

}  // namespace
}  // namespace shoal
