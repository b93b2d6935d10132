#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr JsonLimits kLimits{.depth_max = 4, .keys_max = 3};

template <typename Json>
class JsonReader : public testing::Test {
 protected:
  static std::string problem(std::string_view text, const JsonLimits& limits = kLimits) {
    Json value;
    const absl::Status status = ReadJson(text, limits, &value);
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument);
    return status.ok() ? "" : Message(status);
  }
};
using Kinds = testing::Types<nlohmann::json, nlohmann::ordered_json>;
TYPED_TEST_SUITE(JsonReader, Kinds);

TYPED_TEST(JsonReader, ReadsTheSameValuesAsTheLibrary) {
  for (const char* text : {"null", "true", "[]", "{}", " 7 ", "-7", "1.5e3", "18446744073709551615",
                           "-9223372036854775808", R"("a\u00e9\n\ud83d\udc1f")",
                           R"([1, [2, {"a": [3]}], {}])", R"({"b": {"a": 1}, "a": [{"b": null}, "x"]})"}) {
    TypeParam value;
    ASSERT_TRUE(ReadJson(text, kLimits, &value).ok()) << text;
    EXPECT_EQ(value, TypeParam::parse(text)) << text;
    EXPECT_EQ(value.dump(), TypeParam::parse(text).dump()) << text;
  }
}

TYPED_TEST(JsonReader, AKeyThatAppearsTwiceInOneObjectIsNamed) {
  EXPECT_THAT(this->problem(R"({"model": 1, "a": 0, "model": 2})"),
              HasSubstr("the key 'model' appears twice"));
  EXPECT_THAT(this->problem(R"([{"x": {"k": 1, "k": 1}}])"), HasSubstr("'k'"));
  EXPECT_THAT(this->problem(R"({"k": 1, "\u006b": 1})"), HasSubstr("'k'"))
      << "the same key in another spelling";
  EXPECT_THAT(this->problem(R"({"a\n": 1, "a\n": 1})"), HasSubstr("'a?'")) << "one line";
  EXPECT_EQ(this->problem(R"({"a": {"a": [{"a": 1}, {"a": 2}]}})"), "");
}

TYPED_TEST(JsonReader, WhatAnotherProgramWroteIsLookedAtWhateverItsTypesAre) {
  const TypeParam value = TypeParam::parse(R"({"text": "x", "list": ["x"], "inner": {"text": "y"}})");
  EXPECT_EQ(TextOf(value, "text"), "x");
  EXPECT_EQ(TextOf(MemberOf(value, "inner"), "text"), "y");
  EXPECT_TRUE(MemberOf(value, "none").is_null());
  for (const TypeParam& other :
       {MemberOf(value, "list"), MemberOf(value, "text"), TypeParam(3), TypeParam()}) {
    EXPECT_TRUE(MemberOf(other, "text").is_null()) << other;
    EXPECT_EQ(TextOf(other, "text"), "");
  }
  EXPECT_EQ(TextOf(value, "list"), "");
}

TYPED_TEST(JsonReader, RefusesTextsBeyondItsLimits) {
  EXPECT_EQ(this->problem("[[[[]]]]"), "");
  EXPECT_THAT(this->problem("[[[[[]]]]]"), HasSubstr("nested more than 4 deep"));
  EXPECT_THAT(this->problem(std::string(1 << 20, '[')), HasSubstr("nested more than 4 deep"));
  EXPECT_EQ(this->problem(R"({"a": 1, "b": 2, "c": {"d": 1, "e": 1, "f": 1}})"), "");
  EXPECT_THAT(this->problem(R"({"a": 1, "b": 2, "c": 3, "d": 4})"), HasSubstr("more than 3 keys"));
  EXPECT_EQ(this->problem(R"({"a": 1, "b": 2, "c": 3, "d": 4})", {.depth_max = 1}), "");
}

TYPED_TEST(JsonReader, RefusesOtherTextsWithLineAndColumn) {
  for (const char* text : {"", "{", "[1,]", "{\"a\"}", "{} x", "NaN", "[Infinity]", "'a'", "\"\\ud800\"",
                           "1e999", "01", "\"\xff\"", "// c\n1", "{a: 1}"}) {
    EXPECT_THAT(this->problem(text), HasSubstr("not valid JSON: ")) << text;
  }
  EXPECT_THAT(this->problem("[1,\n x]"), HasSubstr("line 2, column 2"));
}

}  // namespace
}  // namespace shoal
