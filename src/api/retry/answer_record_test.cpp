#include "api/retry/answer_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

RepeatKey Key(uint64_t key, uint64_t content = 1) { return {.key = {key, 0}, .content = {content, 0}}; }

std::vector<SampledToken> Sampled(std::initializer_list<int32_t> ids) {
  std::vector<SampledToken> tokens;
  for (const int32_t id : ids) tokens.push_back({.id = id});
  return tokens;
}

class AnswerRecordsTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<AnswerRecords> open(AnswerRecords::Options options = {}) {
    options.folder = folder_;
    auto records = AnswerRecords::Open(std::move(options));
    EXPECT_TRUE(records.ok()) << records.status();
    return records.ok() ? *std::move(records) : nullptr;
  }

  const std::string folder_ =
      ::testing::TempDir() + "answers-" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string file_ = folder_ + "/answers.log";
};

TEST_F(AnswerRecordsTest, TokensOutliveTheProcess) {
  {
    const auto records = open();
    ASSERT_TRUE(records->begin(Key(1)));
    records->note(Key(1), 0, 0, Sampled({5, 6}));
    records->note(Key(1), 1, 0, Sampled({9}));
    records->note(Key(1), 0, 2, Sampled({7}));
  }
  const auto records = open();
  EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(5, 6, 7));
  EXPECT_THAT(records->tokens(Key(1), 1), ElementsAre(9));
  EXPECT_THAT(records->tokens(Key(1), 2), IsEmpty());
  EXPECT_THAT(records->tokens(Key(2), 0), IsEmpty());
}

TEST_F(AnswerRecordsTest, AKeyIsForOneBody) {
  const auto records = open();
  EXPECT_TRUE(records->begin(Key(1, 1)));
  EXPECT_TRUE(records->begin(Key(1, 1)));
  EXPECT_FALSE(records->begin(Key(1, 2)));
  records->note(Key(1, 2), 0, 0, Sampled({5}));
  EXPECT_THAT(records->tokens(Key(1, 1), 0), IsEmpty());
}

TEST_F(AnswerRecordsTest, WhatIsSaidAgainStaysAndWhatDiffersIsReplaced) {
  for (const bool written : {false, true}) {
    const auto records = written ? open() : *AnswerRecords::Open({});
    ASSERT_TRUE(records->begin(Key(1)));
    records->note(Key(1), 0, 0, Sampled({5, 6, 7}));
    records->note(Key(1), 0, 0, Sampled({5}));
    records->note(Key(1), 0, 1, Sampled({6, 7, 8}));
    EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(5, 6, 7, 8));
    records->note(Key(1), 0, 1, Sampled({6, 1}));
    EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(5, 6, 1));
    records->note(Key(1), 0, 9, Sampled({4}));  // What lies between is not known.
    EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(5, 6, 1));
  }
  EXPECT_THAT(open()->tokens(Key(1), 0), ElementsAre(5, 6, 1));
}

TEST_F(AnswerRecordsTest, TheOneAskedForLongestAgoGoesFirst) {
  {
    const auto records = open({.records_max = 2});
    for (const uint64_t key : {1, 2}) ASSERT_TRUE(records->begin(Key(key)));
    for (const uint64_t key : {1, 2}) records->note(Key(key), 0, 0, Sampled({5}));
    ASSERT_TRUE(records->begin(Key(1)));
    ASSERT_TRUE(records->begin(Key(3)));
    EXPECT_EQ(records->records(), 2);
    EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(5));
  }
  EXPECT_THAT(open()->tokens(Key(1), 0), ElementsAre(5));
  EXPECT_THAT(open()->tokens(Key(2), 0), IsEmpty());
}

TEST_F(AnswerRecordsTest, LongOnesGoWhereTokensAreBounded) {
  const auto records = open({.tokens_max = 3});
  ASSERT_TRUE(records->begin(Key(1)));
  records->note(Key(1), 0, 0, Sampled({1, 2, 3, 4}));
  ASSERT_TRUE(records->begin(Key(1)));
  EXPECT_THAT(records->tokens(Key(1), 0), ElementsAre(1, 2, 3, 4)) << "the only one";
  ASSERT_TRUE(records->begin(Key(2)));
  EXPECT_EQ(records->records(), 1);
  EXPECT_THAT(records->tokens(Key(1), 0), IsEmpty());
}

TEST_F(AnswerRecordsTest, AFolderIsOneServers) {
  const auto first = open();
  const auto second = AnswerRecords::Open({.folder = folder_});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("another server"));
}

TEST_F(AnswerRecordsTest, DamageCostsWhatComesAfterIt) {
  {
    const auto records = open();
    for (const uint64_t key : {1, 2}) {
      ASSERT_TRUE(records->begin(Key(key)));
      records->note(Key(key), 0, 0, Sampled({5}));
    }
  }
  std::string bytes = *ReadTextFile(file_, 1 << 20);
  bytes[bytes.size() - 1] ^= 1;
  std::ofstream(file_, std::ios::binary) << bytes;
  EXPECT_THAT(open()->tokens(Key(1), 0), ElementsAre(5));
  EXPECT_THAT(open()->tokens(Key(2), 0), IsEmpty());
  EXPECT_EQ(open()->records(), 2);
  std::ofstream(file_, std::ios::binary) << "something else";
  EXPECT_EQ(open()->records(), 0);
}

TEST(AnswerLog, AFileReadsBack) {
  const std::vector<AnswerLogEntry> entries = {{.key = Key(1), .asked_s = 10, .choices = {{1, 2}, {}}},
                                               {.key = Key(2), .asked_s = 11}};
  const ReadAnswerLog read = DecodeAnswerLog(EncodeEntries(entries));
  EXPECT_EQ(read.damage, "");
  EXPECT_EQ(read.entries, entries);
}

TEST(AnswerLog, CutAnywhereItKeepsWhatWasWhole) {
  const std::vector<AnswerLogEntry> entries = {{.key = Key(1), .asked_s = 10, .choices = {{1, 2}, {3}}},
                                               {.key = Key(2), .asked_s = 11, .choices = {{4}}}};
  const std::string whole = EncodeEntries(entries);
  size_t clean = 0;
  for (size_t size = 0; size < whole.size(); ++size) {
    const ReadAnswerLog read = DecodeAnswerLog(std::string_view(whole).substr(0, size));
    clean += read.damage.empty() ? 1 : 0;
    ASSERT_LE(read.entries.size(), entries.size());
    for (size_t i = 0; i < read.entries.size(); ++i) EXPECT_EQ(read.entries[i].key, entries[i].key);
  }
  EXPECT_EQ(clean, 6u) << "an empty file, and one cut behind the header or behind one of four whole changes";
}

TEST_F(AnswerRecordsTest, AFileOfWhichMostIsOutdatedIsWrittenAnew) {
  constexpr int kTokens = 1 << 20;
  std::vector<SampledToken> tokens(kTokens);
  const auto fill = [&](int32_t id) {
    for (SampledToken& token : tokens) token.id = id;
  };
  {
    const auto records = open();
    ASSERT_TRUE(records->begin(Key(1)));
    ASSERT_TRUE(records->begin(Key(2)));
    records->note(Key(2), 1, 0, Sampled({7}));
    for (int32_t round = 0; round < 8; ++round) {  // 4 MiB each.
      fill(round);
      records->note(Key(1), 0, 0, tokens);
    }
  }
  EXPECT_LT(std::filesystem::file_size(file_), size_t{24} << 20);
  const auto records = open();
  EXPECT_EQ(records->tokens(Key(1), 0), std::vector<int32_t>(kTokens, 7));
  EXPECT_THAT(records->tokens(Key(2), 1), ElementsAre(7));
  EXPECT_LT(std::filesystem::file_size(file_), size_t{5} << 20);
}

TEST(AnswerLog, ACraftedFileTakesNoMoreMemoryThanItsLimits) {
  const AnswerLogLimits limits{.entries = 3, .choices = 10, .tokens = 6};
  const auto read = [&](const std::string& more) {
    const std::string begins =
        EncodeEntries(std::vector<AnswerLogEntry>{{.key = Key(1)}, {.key = Key(2)}, {.key = Key(3)}});
    return DecodeAnswerLog(begins + more, limits);
  };
  const std::vector<int32_t> three = {1, 2, 3};
  EXPECT_EQ(read("").damage, "");
  EXPECT_THAT(read(EncodeBegin(Key(4), 0)).damage, HasSubstr("more than a server keeps"));
  EXPECT_EQ(read(EncodeForget(Key(1).key) + EncodeBegin(Key(4), 0)).damage, "");
  const std::string last = EncodeTokens(Key(1).key, 9, 0, {});
  EXPECT_EQ(read(last).damage, "");
  EXPECT_NE(read(last + EncodeTokens(Key(2).key, 0, 0, {})).damage, "");
  EXPECT_EQ(read(last + EncodeForget(Key(1).key) + EncodeTokens(Key(2).key, 9, 0, {})).damage, "");
  const std::string half = EncodeTokens(Key(1).key, 0, 0, three);
  const std::string full = half + EncodeTokens(Key(2).key, 0, 0, three);
  EXPECT_EQ(read(full + EncodeTokens(Key(1).key, 0, 1, std::vector<int32_t>{7, 8})).damage, "");
  EXPECT_NE(read(full + EncodeTokens(Key(3).key, 0, 0, std::vector<int32_t>{7})).damage, "");
  EXPECT_EQ(read(full + EncodeTokens(Key(1).key, 0, 0, {}) + EncodeTokens(Key(3).key, 0, 0, three)).damage,
            "");
  // By default a file of some megabytes that names the last choice of each of many entries.
  std::string many = EncodeEntries({});
  for (uint64_t key = 0; key < 2000; ++key)
    many += EncodeBegin(Key(key), 0) + EncodeTokens(Key(key).key, kLoggedChoicesMax - 1, 0, {});
  const ReadAnswerLog crafted = DecodeAnswerLog(many);
  EXPECT_NE(crafted.damage, "");
  EXPECT_LE(crafted.entries.size(), AnswerLogLimits().choices / kLoggedChoicesMax + 1);
}

TEST(AnswerLog, WhatNoneOfUsWroteIsRefused) {
  const std::string begin = EncodeEntries(std::vector<AnswerLogEntry>{{.key = Key(1), .asked_s = 10}});
  const std::vector<int32_t> tokens = {5};
  for (const std::string& wrong :
       {EncodeTokens(Key(2).key, 0, 0, tokens), EncodeTokens(Key(1).key, 0, 1, tokens),
        EncodeTokens(Key(1).key, kLoggedChoicesMax, 0, tokens)}) {
    const ReadAnswerLog read = DecodeAnswerLog(begin + wrong);
    EXPECT_NE(read.damage, "");
    EXPECT_EQ(read.entries.size(), 1u);
  }
}

TEST(SeedOf, DependsOnTheKeyAndTheBody) {
  EXPECT_EQ(SeedOf(Key(1, 2)), SeedOf(Key(1, 2)));
  EXPECT_NE(SeedOf(Key(1, 2)), SeedOf(Key(1, 3)));
  EXPECT_NE(SeedOf(Key(1, 2)), SeedOf(Key(2, 2)));
}

}  // namespace
}  // namespace shoal
