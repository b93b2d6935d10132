#include "cluster/model_locator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/status.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// A root and a folder beside it, gone at the end of the test.
class ModelLocator : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/model_locator_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    base_ = fs::canonical(pattern);
    root_ = base_ / "root";
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(base_); }

  static void write(const fs::path& path, std::string_view text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  fs::path make_model(const fs::path& folder) {
    write(folder / "config.json", "{}");
    return folder;
  }
  /// A cache folder as huggingface_hub makes it: the files of a snapshot link to ../../blobs.
  fs::path make_cached(const fs::path& hub, const std::string& name, const std::string& revision) {
    const fs::path cache = hub / name;
    write(cache / "blobs" / ("blob-" + revision), "{}");
    const fs::path snapshot = cache / "snapshots" / revision;
    fs::create_directories(snapshot);
    fs::create_symlink("../../blobs/blob-" + revision, snapshot / "config.json");
    return snapshot;
  }
  absl::StatusOr<std::string> find(std::string_view name) { return FindModel({root_.string()}, name); }
  void expect_found(std::string_view name, const fs::path& folder) {
    const auto found = find(name);
    ASSERT_TRUE(found.ok()) << ToString(found.status());
    EXPECT_EQ(*found, folder.string());
  }
  void expect_error(std::string_view name, absl::StatusCode code, const std::string& text) {
    const auto found = find(name);
    ASSERT_FALSE(found.ok()) << name << " gave " << *found;
    EXPECT_EQ(found.status().code(), code) << ToString(found.status());
    EXPECT_THAT(Message(found.status()), HasSubstr(text));
  }

  fs::path base_;
  fs::path root_;
};

TEST_F(ModelLocator, FindsAFolderByNameAndByProviderAndName) {
  const fs::path plain = make_model(root_ / "tiny");
  const fs::path nested = make_model(root_ / "acme" / "large");
  expect_found("tiny", plain);
  expect_found("acme/large", nested);
  expect_found("acme/tiny", plain);  // The provider of a cluster file need not be a folder.
}

TEST_F(ModelLocator, FindsTheSnapshotOfAHuggingFaceCacheThatMainNames) {
  make_cached(root_, "models--acme--tiny", "aaa");
  const fs::path main = make_cached(root_, "models--acme--tiny", "bbb");
  write(root_ / "models--acme--tiny" / "refs" / "main", "bbb");
  expect_found("acme/tiny", main);
  expect_found("tiny", main);
  expect_found(main.string(), main);
}

TEST_F(ModelLocator, FindsTheOnlySnapshotWithoutMainAndTheHubFolderBelowTheRoot) {
  const fs::path only = make_cached(root_ / "hub", "models--acme--tiny", "ccc");
  expect_found("acme/tiny", only);
}

TEST_F(ModelLocator, SearchesTheRootsInOrder) {
  const fs::path second = base_ / "second";
  make_model(second / "tiny");
  make_model(second / "other");
  make_model(root_ / "tiny");
  const std::vector<std::string> roots = {(base_ / "absent").string(), root_.string(), second.string()};
  EXPECT_EQ(*FindModel(roots, "tiny"), (root_ / "tiny").string());
  EXPECT_EQ(*FindModel(roots, "other"), (second / "other").string());
}

TEST_F(ModelLocator, RefusesTwoCachedModelsOfOneName) {
  make_cached(root_, "models--acme--tiny", "aaa");
  make_cached(root_, "models--other--tiny", "aaa");
  expect_error("tiny", absl::StatusCode::kInvalidArgument, "acme/tiny, other/tiny");
}

TEST_F(ModelLocator, RefusesToLeaveTheRoot) {
  const fs::path outside = make_model(base_ / "outside");
  make_model(base_ / "root-beside");  // A prefix of the text, not of the path.
  make_model(root_ / "tiny");
  fs::create_directory_symlink(outside, root_ / "link");
  write(base_ / "secret", "{}");
  const fs::path leaking = root_ / "leaking";
  make_model(leaking);
  fs::create_symlink(base_ / "secret", leaking / "model.safetensors");

  constexpr auto kDenied = absl::StatusCode::kPermissionDenied;
  expect_error("../outside", kDenied, "'..'");
  expect_error("tiny/..", kDenied, "'..'");
  expect_error("link", kDenied, "outside the model root");
  expect_error("leaking", kDenied, "outside the model root");
  expect_error(outside.string(), kDenied, "below a model root");
  expect_error((base_ / "root-beside").string(), kDenied, "below a model root");
  expect_error((root_ / "tiny" / ".." / ".." / "outside").string(), kDenied, "below a model root");
  expect_error((base_ / "absent").string(), kDenied, "below a model root");
}

TEST_F(ModelLocator, RefusesToGuessBetweenTwoSnapshots) {
  make_cached(root_, "models--acme--tiny", "aaa");
  make_cached(root_, "models--acme--tiny", "bbb");
  expect_error("acme/tiny", absl::StatusCode::kFailedPrecondition, "found 2 snapshots");
}

TEST_F(ModelLocator, RefusesARevisionThatIsAPath) {
  make_cached(root_, "models--acme--tiny", "aaa");
  write(root_ / "models--acme--tiny" / "refs" / "main", "../../../outside");
  expect_error("acme/tiny", absl::StatusCode::kInvalidArgument, "expected a revision");
}

TEST_F(ModelLocator, NamesTheRootsAndTheNearestNameWhereNothingIsFound) {
  make_model(root_ / "Qwen3-1.7B-8bit");
  expect_error("Qwen3-1.7B-4bit", absl::StatusCode::kNotFound, root_.string());
  expect_error("Qwen3-1.7B-4bit", absl::StatusCode::kNotFound, "'Qwen3-1.7B-8bit'");
  expect_error((root_ / "absent").string(), absl::StatusCode::kNotFound, "found nothing");
  fs::create_directories(root_ / "empty");
  expect_error("empty", absl::StatusCode::kNotFound, "config.json");
}

TEST_F(ModelLocator, FindsGgufFilesByNameAndInAFolderOfTheirOwn) {
  write(root_ / "tiny.gguf", "GGUF");
  write(root_ / "acme" / "split-00001-of-00002.gguf", "GGUF");
  expect_found("tiny.gguf", root_ / "tiny.gguf");
  expect_found((root_ / "tiny.gguf").string(), root_ / "tiny.gguf");
  expect_found("acme", root_ / "acme");
  expect_error("acme/split-00001-of-00002.gguf", absl::StatusCode::kFailedPrecondition,
               "split-00002-of-00002.gguf");
  write(base_ / "secret", "GGUF");
  fs::create_symlink(base_ / "secret", root_ / "leak.gguf");
  expect_error("leak.gguf", absl::StatusCode::kPermissionDenied, "outside the model root");
  fs::create_symlink(base_ / "secret", root_ / "acme" / "split-00002-of-00002.gguf");
  expect_error("acme/split-00001-of-00002.gguf", absl::StatusCode::kPermissionDenied,
               "outside the model root");
}

TEST_F(ModelLocator, RefusesMalformedNames) {
  for (const char* name : {"", "a//b", "./a", "a/b/c", "a/"}) {
    expect_error(name, absl::StatusCode::kInvalidArgument, "model '");
  }
  expect_error(std::string_view("a\0b", 3), absl::StatusCode::kInvalidArgument, "zero byte");
  EXPECT_EQ(FindModel({}, "tiny").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ModelNames, AHuggingFaceCachePathGivesProviderAndName) {
  EXPECT_THAT(ModelNames("/hub/models--mlx-community--Qwen3-8bit/snapshots/abc", ""),
              testing::ElementsAre("/hub/models--mlx-community--Qwen3-8bit/snapshots/abc",
                                   "mlx-community/Qwen3-8bit", "abc"));
}

}  // namespace
}  // namespace shoal
