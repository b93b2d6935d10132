// Any config, any shard and any file of weights are a folder whose encoded tensors can be read, or an error
// with a message; never a crash. The input is the config, or the config, kShardMark and the shard; a zero
// byte; and the file.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/check.h"
#include "base/status.h"
#include "formats/checkpoint.h"
#include "formats/shard.h"

namespace {

constexpr char kShardMark = '\x1e';  // In no JSON text.

/// A folder of this process, gone with it.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("shoal-fuzz-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  void write(std::string_view name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary | std::ios::trunc) << bytes;
  }
  void remove(std::string_view name) const {
    std::error_code ignored;
    std::filesystem::remove(path_ / name, ignored);
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// First and last row: all that the shape and the parts beside it say is read.
void Decode(const shoal::Checkpoint& checkpoint, const shoal::TensorInfo& info) {
  const auto view = checkpoint.view_blocks(info, info.shape);
  SHOAL_CHECK(view.ok());
  SHOAL_CHECK(view->rows > 0 && view->cols > 0);
  shoal::DecodedRows decoded;
  for (const int64_t row : {int64_t{0}, view->rows - 1}) {
    if (!decoded.decode(*view, {row})) continue;
    (void)decoded.value(0, 0);
    (void)decoded.value(0, view->cols - 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  if (cut == std::string_view::npos) return 0;
  std::string file(input.substr(cut + 1));
  // The length of the header is where it ends: mutations would leave it wrong.
  const size_t end = file.rfind("}}");
  if (end != std::string::npos && end >= 8) {
    const uint64_t length = end + 2 - 8;
    std::memcpy(file.data(), &length, 8);
  }
  const std::string_view texts = input.substr(0, cut);
  const size_t mark = texts.find(kShardMark);
  folder.write("config.json", texts.substr(0, mark));
  if (mark == std::string_view::npos) {
    folder.remove(shoal::kShardFile);
  } else {
    folder.write(shoal::kShardFile, texts.substr(mark + 1));
  }
  folder.write("model.safetensors", file);
  const auto checkpoint = shoal::Checkpoint::Open(folder.path());
  if (!checkpoint.ok()) {
    SHOAL_CHECK(!shoal::Message(checkpoint.status()).empty());
    return 0;
  }
  for (const shoal::TensorInfo& info : (*checkpoint)->tensors()) {
    if (info.blocks == shoal::BlockType::kNone) continue;
    if (info.file < 0 || !info.held.empty()) {  // Not all of it is here.
      (void)(*checkpoint)->matrix(info, info.shape.size() > 2 ? info.shape[0] : 0, 0);
    } else {
      Decode(**checkpoint, info);
    }
  }
  return 0;
}
