// A checkpoint folder: config, tensor table, and views into the mapped files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "formats/gguf.h"
#include "formats/gguf_text.h"
#include "formats/mapped_file.h"
#include "formats/safetensors.h"
#include "formats/shard.h"

namespace shoal {

/// The dtypes that an unquantized weight may have.
inline constexpr DType kFloatWeights[] = {DType::kBF16, DType::kF16, DType::kF32};
/// Those of ids (WeightSource::ids).
inline constexpr DType kIdWeights[] = {DType::kI64, DType::kI32, DType::kBF16, DType::kF16, DType::kF32};

/// A tensor's bytes in the map. Valid while its Checkpoint lives. `data` may be unaligned: read with memcpy.
struct TensorView {
  DType dtype = DType::kF32;
  std::span<const int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;
  std::string_view file;  ///< Name of its file in the folder, for messages.
};

/// A Hugging Face folder: config.json, generation_config.json where there is one, and either
/// model.safetensors.index.json with its shards or model.safetensors. Or a GGUF file, or all files of a split
/// one, whose metadata stands for the config and whose tensors have the names of Hugging Face. Opening reads
/// the headers only; tensors are read page by page as they are touched, so a stage pays for its own tensors
/// alone. Immutable and safe to share between threads.
class Checkpoint {
 public:
  /// path: a folder, a GGUF file (the first of a split one), or a folder that has no safetensors but one
  /// GGUF model. NotFound where a file is missing, InvalidArgument where one is not what it should be
  /// (truncated, overlapping, an index that names a tensor which its file lacks, a tensor in two files):
  /// file, tensor, expected and got. Unimplemented for a GGUF of an architecture or an encoding that is not
  /// built.
  /// identity: what content_identity() is to be, where somebody else answers for the bytes of the files
  /// (loading/fetched_models.h); empty: what the files say.
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::string& path,
                                                                const std::string& identity = "");

  /// The folder, or the GGUF file: for messages.
  const std::string& folder() const { return folder_; }
  /// Whether tokenizer and chat template are in the file itself: see gguf_text().
  bool is_gguf() const { return !gguf_metadata_.empty(); }
  /// Tokenizer and chat template of a GGUF (CHECK). Builds them: some 100 ms for a large vocabulary.
  absl::StatusOr<GgufText> gguf_text() const;
  const ModelConfig& config() const { return config_; }
  /// generation_config.json; what it does not say of the bos and pad ids is taken from config.json. The eos
  /// ids are those of both.
  const GenerationConfig& generation() const { return generation_; }

  /// nullptr where there is no such tensor.
  const TensorInfo* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// Set where the folder is a shard of a model, else nullptr. tensors() then lists all of the model's
  /// tensors; those that are not here have no bytes.
  const Shard* shard() const { return shard_ ? &*shard_ : nullptr; }
  /// The bytes of matrix `index` of a stacked tensor (its first dimension counts the matrices), or of the
  /// whole tensor where stack = 0. nullptr where this is a shard without them.
  const std::byte* matrix(const TensorInfo& info, int64_t stack, int64_t index) const;
  /// The place of matrix `index` among the matrices of the stack that are here; -1 where it is not.
  static int64_t SlotOf(const TensorInfo& info, int64_t index);

  /// The rows of a tensor whose `blocks` are not kNone (CHECK), if it has exactly this `shape`; errors as
  /// view(). Of a stack in a shard: the matrices held, one after another.
  absl::StatusOr<BlockView> view_blocks(const TensorInfo& info, std::span<const int64_t> shape) const;

  /// The tensor, if it has one of the `dtypes` and exactly this `shape`; the error says what was expected and
  /// found. NotFound (with the nearest name) or InvalidArgument.
  absl::StatusOr<TensorView> view(std::string_view name, std::span<const DType> dtypes,
                                  std::span<const int64_t> shape) const;
  absl::StatusOr<TensorView> view(std::string_view name, std::span<const DType> dtypes,
                                  std::initializer_list<int64_t> shape) const {
    return view(name, dtypes, std::span(shape.begin(), shape.size()));
  }
  /// The tensor whatever it is, for tools that list.
  TensorView view(const TensorInfo& info) const;

  /// All tensors, sorted by name.
  std::span<const TensorInfo> tensors() const { return tensors_; }
  /// The tensors as they are in the files: an encoded weight is several of them there (encoded_tensors.h).
  /// For a GGUF the same as tensors().
  std::span<const TensorInfo> stored_tensors() const { return stored_tensors_; }
  /// A file with tensors: its name in the folder, and all of its bytes.
  struct File {
    std::string_view name;
    std::span<const std::byte> bytes;
  };
  /// In the order of TensorInfo::file.
  std::vector<File> files() const;
  /// Name of a tensor's file in the folder.
  const std::string& file_name(const TensorInfo& info) const { return name_of_file(info.file); }
  /// Bytes of all tensors.
  int64_t total_bytes() const { return total_bytes_; }

  /// 32 hex digits that depend on the values of config.json and on the names, dtypes and shapes of the
  /// tensors; not on paths, sharding, the order in files or JSON layout. Says whether two nodes opened the
  /// same model; it does not read the weights.
  const std::string& hash() const { return hash_; }

  /// Equal at two times on this machine if the weights are the same bytes: a hash of hash(), the stamps of
  /// the files and a few pages of each. It misses only a change that leaves those pages, the size and the
  /// time of the last change (which no program can set) as they were. Read when it is first asked for.
  const std::string& content_identity() const;
  /// Whether content_identity() can be trusted: no file has changed since it was opened, or in the two
  /// seconds before, the coarsest step in which a file system counts time.
  bool content_settled() const;
  /// Whether somebody else answers for the bytes of the files: Open() was told an identity.
  bool content_vouched() const { return !known_identity_.empty(); }
  /// The stamps of the files as they are now, in the order of files().
  std::vector<FileStamp> stamps_now() const;

  /// Tells the system that the bytes will be read soon. `bytes` of `data` must lie in a view of this
  /// checkpoint.
  void will_need(const std::byte* data, int64_t bytes) const;
  /// Gives the pages of bytes that have been packed back to the system, so that resident memory stays near
  /// the packed size.
  void drop(const std::byte* data, int64_t bytes) const;

 private:
  Checkpoint(std::string folder, ModelConfig config)
      : folder_(std::move(folder)), config_(std::move(config)) {}

  absl::Status read_generation_config();
  absl::Status open_files();
  static absl::StatusOr<std::shared_ptr<Checkpoint>> OpenFiles(const std::string& path);
  static absl::StatusOr<std::shared_ptr<Checkpoint>> OpenGguf(const std::string& path);
  absl::Status add_gguf(const std::string& path, std::vector<GgufTensor>* tensors);
  absl::Status add_file(const std::string& name);
  absl::Status read_index(const std::string& path);
  absl::Status sort_and_refuse_duplicates();
  absl::Status read_shard();
  std::string compute_hash() const;
  std::string compute_identity() const;
  const std::string& name_of_file(int file) const { return file < 0 ? folder_ : file_names_[file]; }
  /// The file that holds `data` and the byte range in it.
  std::pair<const MappedFile*, Range> locate(const std::byte* data, int64_t bytes) const;

  std::string folder_;
  ModelConfig config_;
  GenerationConfig generation_;
  std::vector<std::string> file_names_;
  std::vector<std::string> conversions_;  ///< Of each safetensors file: its kConversionKey, or empty.
  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
  std::vector<TensorInfo> stored_tensors_;
  std::optional<Shard> shard_;
  int64_t total_bytes_ = 0;
  std::string hash_;
  std::string known_identity_;  ///< As Open() was told; else empty.
  mutable std::once_flag identity_read_;
  mutable std::string identity_;
  GgufMetadata gguf_metadata_;  ///< Views into the first file; empty where this is no GGUF.
  int64_t opened_unix_s_ = 0;
};

}  // namespace shoal
