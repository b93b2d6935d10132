// What a shard's table says is checked against its files, and neither can lead past the bytes that are there.
#include "formats/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "formats/checkpoint.h"
#include "formats/test_files.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr char kTable[] =
    R"({"format": "shoal-share-1", "id": "7", "node": "b", "holds": "layer 1", "tensors": {"experts": ["BF16", [4, 2, 2]], )"
    R"("far": ["F32", [8]], "norm": ["F32", [4]]}, "stacks": {"experts": [1, 3]}})";

std::string Files(std::string_view experts_shape, int experts_bytes, std::string_view id = "7") {
  return SafetensorsFile(
      fmt::format(R"({{"__metadata__":{{"shoal_convert":"{}"}},"experts":{{"dtype":"BF16","shape":{},)"
                  R"("data_offsets":[0,{}]}},"norm":{{"dtype":"F32","shape":[4],"data_offsets":[{},{}]}}}})",
                  id, experts_shape, experts_bytes, experts_bytes, experts_bytes + 16),
      static_cast<size_t>(experts_bytes + 16));
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const TemporaryFolder& folder, std::string_view table,
                                                       const std::string& files) {
  folder.write("config.json", "{}");
  folder.write("model.safetensors", files);
  if (!table.empty()) folder.write(kShardFile, table);
  return Checkpoint::Open(folder.path());
}

TEST(Shard, IsTheWholeModelWithSomeOfItsBytes) {
  const TemporaryFolder part;
  const auto shard = Open(part, kTable, Files("[2,2,2]", 16));
  ASSERT_TRUE(shard.ok()) << ToString(shard.status());
  const TemporaryFolder all;
  const auto whole =
      Open(all, "",
           SafetensorsFile(R"({"experts":{"dtype":"BF16","shape":[4,2,2],"data_offsets":[0,32]},)"
                           R"("far":{"dtype":"F32","shape":[8],"data_offsets":[32,64]},)"
                           R"("norm":{"dtype":"F32","shape":[4],"data_offsets":[64,80]}})",
                           80));
  ASSERT_TRUE(whole.ok()) << ToString(whole.status());
  EXPECT_EQ((*shard)->hash(), (*whole)->hash());
  EXPECT_EQ((*shard)->shard()->node, "b");
  EXPECT_EQ((*shard)->total_bytes(), 32);

  const TensorInfo& experts = *(*shard)->find("experts");
  EXPECT_EQ(experts.shape, (std::vector<int64_t>{4, 2, 2}));
  const std::byte* begin = (*shard)->view(experts).data;
  EXPECT_EQ((*shard)->matrix(experts, 4, 0), nullptr);
  EXPECT_EQ((*shard)->matrix(experts, 4, 1), begin);
  EXPECT_EQ((*shard)->matrix(experts, 4, 3), begin + 8);
  EXPECT_EQ((*shard)->matrix(experts, 0, 0), nullptr) << "some matrices are not the whole stack";
  const TensorInfo& far = *(*shard)->find("far");
  EXPECT_EQ((*shard)->matrix(far, 0, 0), nullptr);
  EXPECT_EQ((*shard)->view(far).data, nullptr);
  EXPECT_NE((*shard)->matrix(*(*shard)->find("norm"), 0, 0), nullptr);
}

TEST(Shard, IsFoundUnderTheOlderNameOfItsTable) {
  const TemporaryFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", Files("[2,2,2]", 16));
  folder.write(kOlderShardFile, kTable);
  const auto shard = Checkpoint::Open(folder.path());
  ASSERT_TRUE(shard.ok()) << ToString(shard.status());
  ASSERT_NE((*shard)->shard(), nullptr);
  EXPECT_EQ((*shard)->shard()->node, "b");
  EXPECT_EQ((*shard)->shard()->stacks.at("experts"), (std::vector<int64_t>{1, 3}));

  // Errors name the file that is there; a table under the newer name is preferred.
  folder.write("model.safetensors", Files("[2,2,2]", 16, "8"));
  EXPECT_THAT(Message(Checkpoint::Open(folder.path()).status()), HasSubstr("as shoal-share.json says"));
  folder.write(kShardFile, kTable);
  EXPECT_THAT(Message(Checkpoint::Open(folder.path()).status()), HasSubstr("as shoal-shard.json says"));
}

TEST(Shard, IsRefusedWhereItsFilesAreOfAnother) {
  const auto refusal = [](std::string_view table, const std::string& files) {
    const TemporaryFolder folder;
    return Message(Open(folder, table, files).status());
  };
  EXPECT_THAT(refusal(kTable, Files("[3,2,2]", 24)), HasSubstr("2 matrices of it, found bf16 [3, 2, 2]"));
  EXPECT_THAT(refusal(kTable, Files("[2,4,2]", 32)), HasSubstr("says bf16 [4, 2, 2], found bf16 [4, 4, 2]"));
  EXPECT_THAT(refusal(kTable, Files("[4,2,2]", 32)), HasSubstr("2 matrices of it, found bf16 [4, 2, 2]"));
  EXPECT_THAT(refusal(kTable, Files("[2,2,2]", 16, "8")), HasSubstr("expected the file of shard '7'"));
  std::string other(kTable);
  other.replace(other.find("\"norm\""), 6, "\"nrom\"");
  EXPECT_THAT(refusal(other, Files("[2,2,2]", 16)), HasSubstr("tensor 'norm'"));
}

TEST(Shard, TextIsReadBackAndAnythingElseRefused) {
  const auto shard = ParseShard(kTable, "x.json");
  ASSERT_TRUE(shard.ok()) << ToString(shard.status());
  const auto again = ParseShard(ShardText(*shard), "x.json");
  ASSERT_TRUE(again.ok()) << ToString(again.status());
  EXPECT_EQ(again->stacks, shard->stacks);
  EXPECT_EQ(again->tensors.size(), 3u);
  const auto refusal = [](std::string_view from, std::string_view to) {
    std::string text(kTable);
    text.replace(text.find(from), from.size(), to);
    const auto parsed = ParseShard(text, "x.json");
    return parsed.ok() ? "read" : Message(parsed.status());
  };
  EXPECT_THAT(refusal("shoal-share-1", "shoal-share-9"), HasSubstr("'format'"));
  EXPECT_THAT(refusal("BF16", "BF17"), HasSubstr("tensor 'experts'"));
  EXPECT_THAT(refusal("[4, 2, 2]", "[4, -2, 2]"), HasSubstr("tensor 'experts'"));
  EXPECT_THAT(refusal("[8]", "[4611686018427387904, 8]"), HasSubstr("tensor 'far'"));
  EXPECT_EQ(refusal("[8]", "[281474976710656]"), "read");
  EXPECT_THAT(refusal("[8]", "[281474976710657]"), HasSubstr("2^48 elements at most"));
  for (const char* held : {"[3, 1]", "[1, 1]", "[1, 4]", "[]", "\"1\"", "[1.5]", "[-1]"}) {
    EXPECT_THAT(refusal("[1, 3]", held), HasSubstr("stack 'experts'")) << held;
  }
  EXPECT_THAT(refusal("{\"experts\": [1, 3]}", "{\"other\": [1]}"), HasSubstr("stack 'other'"));
  EXPECT_THAT(refusal("\"node\"", "\"knot\""), HasSubstr("'node'"));
  EXPECT_THAT(refusal("\"7\"", "7"), HasSubstr("'id'"));
}

}  // namespace
}  // namespace shoal
