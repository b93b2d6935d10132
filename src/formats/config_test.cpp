#include "formats/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "formats/mlx_quant.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig Config(std::string_view text) {
  auto config = ModelConfig::Parse(text, "config.json");
  EXPECT_TRUE(config.ok()) << ToString(config.status());
  return *config;
}

template <class T>
std::string ErrorOf(const absl::StatusOr<T>& value) {
  EXPECT_FALSE(value.ok());
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
  return Message(value.status());
}

TEST(ModelConfig, ReadsValuesOfEachType) {
  const ModelConfig config =
      Config(R"({"n": 3, "eps": 1e-06, "theta": 10000, "tied": true, "type": "llama", "none": null,
             "rope_scaling": {"factor": 8.0}, "eos": [2, 5], "one": 7, "names": ["a"]})");
  EXPECT_EQ(*config.required_int("n"), 3);
  EXPECT_EQ(*config.required_number("eps"), 1e-06);
  EXPECT_EQ(*config.required_number("theta"), 10000);
  EXPECT_TRUE(*config.required_bool("tied"));
  EXPECT_EQ(*config.required_string("type"), "llama");
  EXPECT_EQ(*config.required_object("rope_scaling")->required_number("factor"), 8.0);
  EXPECT_THAT(*config.int_list("eos"), ElementsAre(2, 5));
  EXPECT_THAT(*config.int_list("one"), ElementsAre(7));
  EXPECT_THAT(*config.string_list("names"), ElementsAre("a"));
  EXPECT_FALSE(config.optional_int("none")->has_value());
  EXPECT_FALSE(config.has("none"));
  EXPECT_FALSE(config.optional_object("absent")->has_value());
}

TEST(ModelConfig, AMissingStructuralKeyIsAnErrorWithTheNearestKey) {
  const ModelConfig config = Config(R"({"hiden_size": 64, "rope_scaling": {"type": "llama3"}})");
  EXPECT_THAT(
      ErrorOf(config.required_int("hidden_size")),
      AllOf(HasSubstr("config.json: 'hidden_size'"), HasSubstr("found nothing"), HasSubstr("'hiden_size'")));
  EXPECT_THAT(ErrorOf(config.required_object("rope_scaling")->required_number("factor")),
              HasSubstr("'rope_scaling.factor'"));
}

TEST(ModelConfig, WrongTypesAndInsaneValuesAreErrorsThatShowThem) {
  const ModelConfig config =
      Config(R"({"minus": -1, "huge": 99999999999999999999, "big": 2147483648, "real": 8.5, "text": "64",
                                       "list": [1, "x"], "flag": 1})");
  for (const char* key : {"minus", "huge", "big", "real", "text", "list", "flag"}) {
    const auto value = config.required_int(key);
    EXPECT_EQ(value.ok(), std::string_view(key) == "flag") << key;
  }
  EXPECT_THAT(ErrorOf(config.required_int("minus")),
              HasSubstr("expected an integer from 1 to 2147483647, found -1"));
  EXPECT_THAT(ErrorOf(config.required_int("text")), HasSubstr("found \"64\""));
  EXPECT_THAT(ErrorOf(config.required_bool("flag")), HasSubstr("expected true or false, found 1"));
  EXPECT_THAT(ErrorOf(config.int_list("list")), HasSubstr("found \"x\""));
  EXPECT_THAT(ErrorOf(config.required_number("text")), HasSubstr("expected a number"));
  EXPECT_THAT(ErrorOf(config.required_number("real", {0.0, 1.0})), HasSubstr("from 0 to 1, found 8.5"));
  EXPECT_THAT(ErrorOf(config.optional_object("text")), HasSubstr("expected an object"));
}

TEST(ModelConfig, TextThatIsNotOneStrictObjectIsRefused) {
  for (const char* bad : {"", "[]", "{", "{} {}", R"({"a": NotANumber})", R"({"a": 1e999})",
                          R"({"a": 1, "a": 2})", "{\"\xff\": 1}"}) {
    EXPECT_THAT(ErrorOf(ModelConfig::Parse(bad, "config.json")), HasSubstr("config.json")) << bad;
  }
}

TEST(ModelConfig, NumbersThatOnlyPythonWritesAreRead) {
  const auto config = ModelConfig::Parse(
      R"({"limit": [0.0, Infinity], "least": -Infinity, "none": NaN, "text": "NaN \" Infinity"})", "m.json");
  ASSERT_TRUE(config.ok()) << config.status();
  constexpr double kLargest = std::numeric_limits<double>::max();
  EXPECT_EQ(*config->number_list("limit", {0.0, kLargest}), (std::vector<double>{0.0, kLargest}));
  EXPECT_EQ(*config->required_number("least", {-kLargest, 0.0}), -kLargest);
  EXPECT_FALSE(config->has("none"));
  EXPECT_EQ(*config->required_string("text"), "NaN \" Infinity");
  EXPECT_FALSE(ModelConfig::Parse(R"({"a": Infinite})", "m.json").ok());
}

TEST(ModelConfig, ATextThatWouldTakeAllMemoryIsRefusedUnparsed) {
  const std::string text = R"({"a": ")" + std::string(16 << 20, 'x') + R"("})";
  EXPECT_THAT(Message(ModelConfig::Parse(text, "config.json").status()),
              HasSubstr("expected at most 16777216 bytes, found 16777225"));
}

TEST(ModelConfig, LayoutAndKeyOrderDoNotChangeTheCanonicalText) {
  EXPECT_EQ(Config(R"({"b": [1, 2], "a": {"y": 1, "x": null}})").canonical(),
            Config("{ \"a\":{\"x\":null,\"y\":1},\n\"b\":[1,2] }").canonical());
  EXPECT_NE(Config(R"({"a": 1})").canonical(), Config(R"({"a": 2})").canonical());
}

TEST(GenerationConfig, ReadsOneOrManyStopTokensAndSampling) {
  const auto generation = ParseGenerationConfig(Config(
      R"({"eos_token_id": [2, 5], "bos_token_id": 1, "temperature": 0.6, "top_p": 0.95, "top_k": 20,
          "do_sample": true})"));
  ASSERT_TRUE(generation.ok()) << ToString(generation.status());
  EXPECT_THAT(generation->eos_token_ids, ElementsAre(2, 5));
  EXPECT_EQ(generation->bos_token_id, 1);
  EXPECT_EQ(generation->temperature, 0.6);
  EXPECT_EQ(generation->top_p, 0.95);
  EXPECT_EQ(generation->top_k, 20);
  EXPECT_FALSE(generation->min_p.has_value());
  EXPECT_THAT(ParseGenerationConfig(Config(R"({"eos_token_id": 7})"))->eos_token_ids, ElementsAre(7));
  EXPECT_THAT(ErrorOf(ParseGenerationConfig(Config(R"({"top_p": 1.5})"))), HasSubstr("'top_p'"));
  EXPECT_THAT(ErrorOf(ParseGenerationConfig(Config(R"({"eos_token_id": -2})"))), HasSubstr("'eos_token_id'"));
}

TEST(Quantization, OverridesWinOverTheDefault) {
  const auto quantization =
      Quantization::FromConfig(Config(R"({"quantization": {"bits": 4, "group_size": 64, "mode": "affine",
      "model.layers.0.mlp.gate": {"bits": 8, "group_size": 32}, "lm_head": false, "model.norm": true}})"));
  ASSERT_TRUE(quantization.ok()) << ToString(quantization.status());
  EXPECT_EQ(quantization->for_tensor("model.layers.0.self_attn.q_proj"), (AffineFormat{4, 64}));
  EXPECT_EQ(quantization->for_tensor("model.layers.0.mlp.gate"), (AffineFormat{8, 32}));
  EXPECT_EQ(quantization->for_tensor("lm_head"), std::nullopt);
  EXPECT_EQ(quantization->for_tensor("model.norm"), (AffineFormat{4, 64}));
}

TEST(Quantization, IsReadFromEitherKeyAndMayBeAbsent) {
  EXPECT_TRUE(Quantization::FromConfig(Config(R"({"quantization_config": {"bits": 8, "group_size": 64}})"))
                  ->present());
  EXPECT_FALSE(Quantization::FromConfig(Config("{}"))->present());
  EXPECT_EQ(Quantization::FromConfig(Config("{}"))->for_tensor("lm_head"), std::nullopt);
}

TEST(Quantization, GroupsOf16AreThoseOfCodesOf2And3And6Bits) {
  for (const int bits : {2, 3, 6}) {
    const auto read = Quantization::FromConfig(
        Config(fmt::format(R"({{"quantization": {{"bits": {}, "group_size": 16}}}})", bits)));
    ASSERT_TRUE(read.ok()) << ToString(read.status());
    EXPECT_EQ(read->for_tensor("lm_head"), (AffineFormat{bits, 16}));
  }
}

TEST(Quantization, WhatIsNotAffineIsRefusedByKeyValueAndWhatIsKnown) {
  const auto error = [](std::string_view quantization) {
    return ErrorOf(Quantization::FromConfig(Config(fmt::format(R"({{"quantization": {}}})", quantization))));
  };
  EXPECT_THAT(error(R"({"bits": 4, "group_size": 32, "mode": "nf4"})"),
              AllOf(HasSubstr("'quantization.mode'"), HasSubstr("'nf4'"), HasSubstr("'affine'")));
  EXPECT_THAT(error(R"({"bits": 7, "group_size": 32})"),
              HasSubstr("expected one of 2, 3, 4, 5, 6, 8, found 7"));
  EXPECT_THAT(error(R"({"bits": 4, "group_size": 16})"),
              HasSubstr("expected one of 16, 32, 64, 128 (16 with 2, 3 or 6 bits), found 16"));
  EXPECT_THAT(error(R"({"group_size": 64})"), HasSubstr("'quantization.bits'"));
  EXPECT_THAT(error(R"({"bits": 4, "group_size": 64, "lm_head": {"bits": 6}})"),
              HasSubstr("'quantization.lm_head.group_size'"));
  EXPECT_THAT(error(R"({"bits": 4, "group_size": 64, "group_sise": 32})"),
              AllOf(HasSubstr("'quantization.group_sise'"), HasSubstr("'group_size'")));
  EXPECT_THAT(error(R"({"quant_method": "bitsandbytes"})"), HasSubstr("\"bitsandbytes\" is not supported"));
}

}  // namespace
}  // namespace shoal
