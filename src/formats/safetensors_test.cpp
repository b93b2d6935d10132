#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "formats/mapped_file.h"
#include "formats/test_files.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<SafetensorsHeader> Parse(std::string_view file) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(file)), "x.safetensors");
}

/// The message of the error that a header with `data_bytes` bytes behind it gives.
std::string ErrorOf(std::string_view header, size_t data_bytes) {
  const auto parsed = Parse(SafetensorsFile(header, data_bytes));
  EXPECT_FALSE(parsed.ok()) << header;
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return Message(parsed.status());
}

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const auto header = Parse(SafetensorsFile(
      R"({"__metadata__":{"format":"mlx"},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},)"
      R"("a":{"dtype":"U32","shape":[2,2],"data_offsets":[0,16]}})",
      22));
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  ASSERT_EQ(header->tensors.size(), 2u);
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[0].dtype, DType::kU32);
  EXPECT_THAT(header->tensors[0].shape, ElementsAre(2, 2));
  EXPECT_EQ(header->tensors[0].bytes, (Range{header->data_begin, header->data_begin + 16}));
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->metadata.at("format"), "mlx");
  EXPECT_TRUE(Parse(SafetensorsFile(R"({"__metadata__":null})", 0)).ok());  // As MLX writes none.
}

TEST(Safetensors, ATruncatedFileNamesTensorExpectedAndGot) {
  EXPECT_THAT(
      ErrorOf(R"({"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", 7),
      AllOf(HasSubstr("tensor 'a.weight' in x.safetensors"), HasSubstr("[0, 16)"), HasSubstr("7 bytes")));
}

TEST(Safetensors, OverlappingTensorsAreNamedBoth) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                      6),
              AllOf(HasSubstr("tensor 'b' in x.safetensors"), HasSubstr("[2, 6) overlap those of 'a'")));
}

TEST(Safetensors, BytesThatBelongToNoTensorAreRefused) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                      4),
              HasSubstr("begin at 3, expected 1"));
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 9),
              HasSubstr("take 1 bytes of data, the file holds 9"));
}

TEST(Safetensors, ASizeThatIsNotThatOfTheShapeIsRefused) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}})", 4),
              AllOf(HasSubstr("expected 12 bytes for f32 [3]"), HasSubstr("4 bytes")));
}

TEST(Safetensors, TensorsOfDtypesThatNothingComputesWithAreBytesWithTheirName) {
  const std::string file = SafetensorsFile(R"({"a":{"dtype":"F4","shape":[2,8],"data_offsets":[0,8]},)"
                                           R"("b":{"dtype":"C64","shape":[],"data_offsets":[8,16]},)"
                                           R"("c":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[16,19]}})",
                                           19);
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  EXPECT_EQ(DescribeTensor(header->tensors[0]), "F4 [2, 8]");
  EXPECT_EQ(header->tensors[0].shape, std::vector<int64_t>{8});
  EXPECT_EQ(DescribeTensor(header->tensors[1]), "C64 []");
  EXPECT_EQ(DescribeTensor(header->tensors[2]), "F6_E2M3 [4]");
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2), HasSubstr("F4 [3]"));
}

TEST(Safetensors, AHugeLengthIsRefusedBeforeItIsRead) {
  std::string file = SafetensorsFile("{}", 0);
  for (const uint64_t length : {uint64_t{3}, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::memcpy(file.data(), &length, 8);
    const auto parsed = Parse(file);
    ASSERT_FALSE(parsed.ok());
    EXPECT_THAT(Message(parsed.status()), AllOf(HasSubstr("x.safetensors"), HasSubstr("expected at most 2 "),
                                                HasSubstr(fmt::format("found {}", length))));
  }
}

TEST(Safetensors, ARepeatedNameIsRefused) {
  EXPECT_THAT(ErrorOf(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                      2),
              HasSubstr("the key 'a' appears twice"));
}

TEST(Safetensors, MalformedEntriesAreRefusedWithWhatWasFound) {
  struct Case {
    const char* header;
    const char* message;
  };
  const Case cases[] = {
      {R"({"a":1})", "expected an object, found 1"},
      {R"({"a":{"dtype":"F5","shape":[8],"data_offsets":[0,5]}})", "dtype 'F5' is not known"},
      {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", "expected a string under 'dtype', found 3"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", "expected a list under 'shape', found nothing"},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "non-negative integers, found -1"},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "non-negative integers, found 1.0"},
      {R"({"a":{"dtype":"F64","shape":[1099511627776,1099511627776],"data_offsets":[0,1]}})",
       "does not fit 62 bits"},
      {R"({"a":{"dtype":"F64","shape":[1152921504606846976],"data_offsets":[0,1]}})", "does not fit 62 bits"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "found [1,0]"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", "found [0,1,2]"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", "18446744073709551615"},
      {R"({"__metadata__":{"x":1}})", "'__metadata__' key 'x': expected a string, found 1"},
      {R"({"a")", "not valid JSON"},
      {R"([])", "begins with '{'"},
  };
  for (const Case& bad : cases) EXPECT_THAT(ErrorOf(bad.header, 1), HasSubstr(bad.message));
  const std::string deep = R"({"a":)" + std::string(100, '[') + std::string(100, ']') + "}";
  EXPECT_THAT(ErrorOf(deep, 0), HasSubstr("nested more than 32 deep"));
}

TEST(Safetensors, AFileThatWasWrittenReadsBackTheSame) {
  const TemporaryFolder folder;
  const std::string path = folder / "out.safetensors";
  const std::vector<SafetensorsWriter::Entry> entries = {{"odd", DType::kU8, {3}},
                                                         {"row", DType::kF32, {1, 2}}};
  auto writer = SafetensorsWriter::Create(path, entries, {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << ToString(writer.status());
  const std::string bytes = "abc12345678";
  for (const size_t begin : {size_t{0}, size_t{5}}) {  // Pieces need not end with a tensor.
    ASSERT_TRUE(writer->append(std::as_bytes(std::span(bytes).subspan(begin, begin == 0 ? 5 : 6))).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path)) << "a half-written file must not carry the name";
  ASSERT_TRUE(writer->finish().ok());

  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  const auto header = ParseSafetensorsHeader(file->bytes(), "out.safetensors");
  ASSERT_TRUE(header.ok()) << ToString(header.status());
  EXPECT_EQ(header->data_begin % 8, 0);
  EXPECT_EQ(header->tensors[1].name, "row");
  EXPECT_EQ(std::memcmp(file->bytes().data() + header->data_begin, bytes.data(), bytes.size()), 0);
}

TEST(Safetensors, AnAbandonedWriterLeavesNothingBehind) {
  const TemporaryFolder folder;
  { ASSERT_TRUE(SafetensorsWriter::Create(folder / "out.safetensors", {{"a", DType::kU8, {3}}}).ok()); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, TheWriterRefusesTwoTensorsOfOneName) {
  const TemporaryFolder folder;
  const std::vector<SafetensorsWriter::Entry> twice = {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}};
  EXPECT_FALSE(SafetensorsWriter::Create(folder / "x", twice).ok());
  EXPECT_FALSE(SafetensorsWriter::Create(folder / "x", {{"a", DType::kU8, {-1}}}).ok());
  EXPECT_FALSE(SafetensorsWriter::Create(folder / "absent/x", {{"a", DType::kU8, {1}}}).ok());
}

TEST(MappedFile, SaysWhyAFileCannotBeOpened) {
  const TemporaryFolder folder;
  const auto absent = MappedFile::Open(folder / "absent");
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(absent.status()), HasSubstr(folder / "absent"));
  EXPECT_THAT(Message(MappedFile::Open(folder.path()).status()), HasSubstr("expected a regular file"));
}

TEST(MappedFile, DroppedPagesReadTheSame) {
  const TemporaryFolder folder;
  const std::string text(10000, 'x');
  folder.write("blob", text);
  std::filesystem::create_symlink("blob", folder / "link");  // As a Hugging Face cache has it.
  const auto file = MappedFile::Open(folder / "link");
  ASSERT_TRUE(file.ok());
  file->drop({100, 9000});
  file->will_need({0, 10000});
  EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);
}

}  // namespace
}  // namespace shoal
