#include "formats/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/content_hash.h"
#include "formats/encoded_tensors.h"
#include "formats/gguf_files.h"
#include "formats/gguf_model.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

std::string PathIn(const std::string& folder, std::string_view name) {
  return fmt::format("{}/{}", folder, name);
}

bool Exists(const std::string& path) {
  std::error_code error;  // No permission to search the folder: as if the file were not there.
  return std::filesystem::exists(path, error);
}

/// 128-bit FNV-1a (Fowler, Noll and Vo, http://www.isthe.com/chongo/tech/comp/fnv).
class Fnv128 {
 public:
  void add(std::string_view text) {
    for (const char c : text) {
      state_ ^= static_cast<uint8_t>(c);
      state_ *= kPrime;
    }
  }
  std::string hex() const {
    return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(state_ >> 64), static_cast<uint64_t>(state_));
  }

 private:
  using Word = unsigned __int128;
  static constexpr Word kPrime = (Word{1} << 88) + 0x13b;
  Word state_ = (Word{0x6c62272e07bb0142u} << 64) | 0x62b821756295c58du;
};

std::string DescribeExpected(std::span<const DType> dtypes, std::span<const int64_t> shape) {
  std::vector<std::string_view> names;
  for (const DType dtype : dtypes) names.push_back(DTypeName(dtype));
  return fmt::format("{} [{}]", fmt::join(names, " or "), fmt::join(shape, ", "));
}

/// A shard's name must be a plain file name: an index must not reach out of its folder.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

/// weight_map of an index: tensor name -> file name.
absl::StatusOr<std::map<std::string, std::string>> ParseWeightMap(std::string_view text,
                                                                  const std::string& path) {
  const std::string where = fmt::format("checkpoint: {}", path);
  nlohmann::json json;
  RETURN_IF_ERROR(ParseStrictJson(text, where, &json));
  const auto found = json.is_object() ? json.find("weight_map") : json.end();
  if (found == json.end() || !found->is_object() || found->empty()) {
    return InvalidArgument("{}: expected an object 'weight_map' from tensor to file, found {}", where,
                           found == json.end() ? "nothing" : JsonExcerpt(*found));
  }
  std::map<std::string, std::string> result;
  for (const auto& [tensor, file] : found->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return InvalidArgument("{}: tensor '{}': expected the name of a file in the same folder, found {}",
                             where, Printable(tensor, 200), JsonExcerpt(file));
    }
    result.emplace(tensor, file.get<std::string>());
  }
  return result;
}

/// Appends those of "eos_token_id" that `ids` does not have yet.
absl::Status AddEosIds(const ModelConfig& config, std::vector<int64_t>* ids) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> more, config.int_list("eos_token_id"));
  for (const int64_t id : more) {
    if (std::ranges::find(*ids, id) == ids->end()) ids->push_back(id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& path,
                                                                   const std::string& identity) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Checkpoint> checkpoint, OpenFiles(path));
  checkpoint->known_identity_ = identity;
  return checkpoint;
}

absl::StatusOr<std::shared_ptr<Checkpoint>> Checkpoint::OpenFiles(const std::string& folder) {
  std::error_code error;
  if (folder.ends_with(kGgufExtension) && !std::filesystem::is_directory(folder, error))
    return OpenGguf(folder);
  if (!Exists(PathIn(folder, kSingleFile)) && !Exists(PathIn(folder, kIndexFile))) {
    ASSIGN_OR_RETURN(const std::optional<std::string> gguf, GgufInFolder(folder));
    if (gguf) return OpenGguf(*gguf);
  }
  if (!std::filesystem::is_directory(folder, error)) {
    return NotFound("checkpoint: {}: expected a folder with config.json and model.safetensors, found {}",
                    folder, Exists(folder) ? "a file" : "nothing");
  }
  ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::Load(PathIn(folder, "config.json")));
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint(folder, std::move(config)));
  checkpoint->opened_unix_s_ = UnixSeconds();
  RETURN_IF_ERROR(checkpoint->read_generation_config());
  RETURN_IF_ERROR(checkpoint->open_files());
  RETURN_IF_ERROR(checkpoint->read_shard());
  RETURN_IF_ERROR(checkpoint->sort_and_refuse_duplicates());
  checkpoint->stored_tensors_ = checkpoint->tensors_;
  RETURN_IF_ERROR(FoldEncodedTensors(
      checkpoint->config_, [&](int file) { return checkpoint->name_of_file(file); }, &checkpoint->tensors_));
  checkpoint->hash_ = checkpoint->compute_hash();
  return checkpoint;
}

absl::StatusOr<std::shared_ptr<Checkpoint>> Checkpoint::OpenGguf(const std::string& path) {
  const int64_t opened_unix_s = UnixSeconds();
  ASSIGN_OR_RETURN(const std::vector<std::string> files, GgufFiles(path));
  ASSIGN_OR_RETURN(ModelConfig nothing, ModelConfig::Parse("{}", path));  // Until the files have been read.
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint(path, std::move(nothing)));
  checkpoint->opened_unix_s_ = opened_unix_s;
  std::vector<GgufTensor> tensors;
  for (const std::string& file : files) RETURN_IF_ERROR(checkpoint->add_gguf(file, &tensors));
  const std::string& name = checkpoint->file_names_.front();
  const auto parts = checkpoint->gguf_metadata_.find("split.count");
  if (parts != checkpoint->gguf_metadata_.end() && parts->second.as_int() != std::ssize(files)) {
    return InvalidArgument(
        "checkpoint: {}: 'split.count' says {} files, found {} by its name. Name the first file as it was "
        "split: <name>-00001-of-<count>.gguf, beside the others.",
        path, parts->second.as_int().value_or(-1), files.size());
  }
  ASSIGN_OR_RETURN(const GgufModel model, ModelOfGguf({.metadata = checkpoint->gguf_metadata_,
                                                       .tensors = tensors,
                                                       .first_file = checkpoint->files_.front().bytes()},
                                                      name));
  ASSIGN_OR_RETURN(checkpoint->config_, ModelConfig::Parse(model.config_json, name));
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (model.names[i].name.empty()) continue;
    if (!model.names[i].shape.empty()) tensors[i].shape = model.names[i].shape;
    checkpoint->tensors_.push_back({.name = model.names[i].name,
                                    .dtype = tensors[i].dtype,
                                    .shape = std::move(tensors[i].shape),
                                    .bytes = tensors[i].bytes,
                                    .file = tensors[i].file,
                                    .blocks = tensors[i].blocks,
                                    .permuted_heads = model.names[i].permuted_heads,
                                    .tiled = model.names[i].tiled});
  }
  for (const GgufNumber& number : model.numbers) {
    checkpoint->tensors_.push_back(
        {.name = number.name, .dtype = DType::kF32, .shape = {1}, .bytes = number.bytes});
  }
  RETURN_IF_ERROR(checkpoint->read_generation_config());
  std::ranges::sort(checkpoint->tensors_, {}, &TensorInfo::name);
  const auto twice = std::ranges::adjacent_find(checkpoint->tensors_, {}, &TensorInfo::name);
  if (twice != checkpoint->tensors_.end()) {
    return InvalidArgument("checkpoint: tensor '{}' is twice in the files of {}: expected it once",
                           Printable(twice->name, 200), path);
  }
  RETURN_IF_ERROR(checkpoint->sort_and_refuse_duplicates());
  checkpoint->stored_tensors_ = checkpoint->tensors_;
  checkpoint->hash_ = checkpoint->compute_hash();
  return checkpoint;
}

absl::Status Checkpoint::add_gguf(const std::string& path, std::vector<GgufTensor>* tensors) {
  const std::string name = std::filesystem::path(path).filename().string();
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(GgufHeader header, ParseGguf(file.bytes(), name));
  for (GgufTensor& tensor : header.tensors) {
    tensor.file = static_cast<int>(files_.size());
    tensors->push_back(std::move(tensor));
  }
  if (files_.empty()) gguf_metadata_ = std::move(header.metadata);  // The others repeat it, or have none.
  file_names_.push_back(name);
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<GgufText> Checkpoint::gguf_text() const {
  SHOAL_CHECK(is_gguf());
  return TextOfGguf(gguf_metadata_, file_names_.front());
}

absl::Status Checkpoint::read_generation_config() {
  const std::string path = PathIn(folder_, "generation_config.json");
  if (!is_gguf() && Exists(path)) {
    ASSIGN_OR_RETURN(const ModelConfig file, ModelConfig::Load(path));
    ASSIGN_OR_RETURN(generation_, ParseGenerationConfig(file));
  }
  // A stale list in one file must not hide what the other says.
  RETURN_IF_ERROR(AddEosIds(config_, &generation_.eos_token_ids));
  ASSIGN_OR_RETURN(const auto nested, config_.optional_object("text_config"));
  if (nested) RETURN_IF_ERROR(AddEosIds(*nested, &generation_.eos_token_ids));
  if (!generation_.bos_token_id) {
    ASSIGN_OR_RETURN(generation_.bos_token_id, config_.optional_int("bos_token_id", kAnyCount));
  }
  if (!generation_.pad_token_id) {
    ASSIGN_OR_RETURN(generation_.pad_token_id, config_.optional_int("pad_token_id", kAnyCount));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::open_files() {
  const std::string index = PathIn(folder_, kIndexFile);
  if (Exists(PathIn(folder_, kSingleFile))) {  // First of all, as in the reference.
    if (Exists(index)) LogInfo("checkpoint: {}: not used, as there is {} beside it", index, kSingleFile);
    return add_file(std::string(kSingleFile));
  }
  if (Exists(index)) return read_index(index);
  return NotFound("checkpoint: {}: expected {} or {}, found neither. Is the download complete?", folder_,
                  kSingleFile, kIndexFile);
}

absl::Status Checkpoint::add_file(const std::string& name) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(PathIn(folder_, name)));
  ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(file.bytes(), name));
  for (TensorInfo& tensor : header.tensors) {
    tensor.file = static_cast<int>(files_.size());
    tensors_.push_back(std::move(tensor));
  }
  conversions_.push_back(std::move(header.metadata[kConversionKey]));
  // The header's pages are not needed again.
  file.drop({0, header.data_begin});
  file_names_.push_back(name);
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::read_index(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (static_cast<int64_t>(text.size()) > kSafetensorsHeaderMax) {
    return InvalidArgument("checkpoint: {}: expected at most {} bytes, found {}", path, kSafetensorsHeaderMax,
                           text.size());
  }
  using WeightMap = std::map<std::string, std::string>;
  ASSIGN_OR_RETURN(const WeightMap weight_map, ParseWeightMap(text, path));
  std::map<std::string, int> files;  // Shard -> its index, in the order of names.
  for (const auto& [tensor, shard] : weight_map) files.emplace(shard, 0);
  for (auto& [shard, index] : files) {
    index = static_cast<int>(files_.size());
    const absl::Status added = add_file(shard);
    if (!added.ok()) return Annotate(added, fmt::format("checkpoint: {} names {}", kIndexFile, shard));
  }
  std::map<std::string, int>
      elsewhere;  // Tensors that are not used: where another file has them, or the index none.
  std::set<std::string> found;
  std::erase_if(tensors_, [&](const TensorInfo& tensor) {
    const auto listed = weight_map.find(tensor.name);
    const bool used = listed != weight_map.end() && files.at(listed->second) == tensor.file;
    if (used) {
      found.insert(tensor.name);
    } else {
      elsewhere.emplace(tensor.name, tensor.file);
    }
    return !used;
  });
  for (const auto& [tensor, shard] : weight_map) {
    if (found.contains(tensor)) continue;
    const auto at = elsewhere.find(tensor);
    return InvalidArgument(
        "checkpoint: tensor '{}': expected in {} (says {}), found {}. The index and the shards are "
        "not of one checkpoint: download them again.",
        Printable(tensor, 200), shard, kIndexFile,
        at == elsewhere.end() ? "in no file" : fmt::format("in {}", file_names_[at->second]));
  }
  if (!elsewhere.empty()) {
    LogWarning(
        "checkpoint: {}: the shards hold {} tensors that it does not list, or lists in another shard; they "
        "are "
        "not used, such as '{}' in {}",
        path, elsewhere.size(), Printable(elsewhere.begin()->first, 200),
        file_names_[elsewhere.begin()->second]);
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::read_shard() {
  const std::string_view name = Exists(PathIn(folder_, kShardFile)) ? kShardFile : kOlderShardFile;
  const std::string path = PathIn(folder_, name);
  if (!Exists(path)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kSafetensorsHeaderMax));
  ASSIGN_OR_RETURN(shard_, ParseShard(text, fmt::format("checkpoint: {}", path)));
  shard_->file = name;
  for (size_t i = 0; i < files_.size(); ++i) {
    if (conversions_[i] == shard_->id) continue;
    return InvalidArgument(
        "checkpoint: {} in {}: expected the file of shard '{}', as {} says, found {}. The files are not of "
        "one "
        "shard: copy it again, or make it again with shoal convert --shard-for",
        file_names_[i], folder_, Printable(shard_->id, 40), name,
        conversions_[i].empty() ? "none" : fmt::format("that of '{}'", Printable(conversions_[i], 40)));
  }
  return CompleteTable(*shard_, folder_, &tensors_);
}

absl::Status Checkpoint::sort_and_refuse_duplicates() {
  std::ranges::sort(tensors_, {}, &TensorInfo::name);
  const auto twice = std::ranges::adjacent_find(tensors_, {}, &TensorInfo::name);
  SHOAL_CHECK(twice == tensors_.end());  // One header has no duplicates, and read_index compared the shards.
  for (const TensorInfo& tensor : tensors_) total_bytes_ += tensor.bytes.size();
  if (tensors_.empty()) return InvalidArgument("checkpoint: {}: expected tensors, found none", folder_);
  return absl::OkStatus();
}

std::string Checkpoint::compute_hash() const {
  Fnv128 hash;
  hash.add(config_.canonical());
  for (const TensorInfo& tensor : tensors_) {
    // A newline and the length keep two tables from running into the same text.
    hash.add(fmt::format("\n{} {} {}", tensor.name.size(), tensor.name, DescribeTensor(tensor)));
  }
  return hash.hex();
}

std::vector<Checkpoint::File> Checkpoint::files() const {
  std::vector<File> files;
  for (size_t i = 0; i < files_.size(); ++i) files.push_back({file_names_[i], files_[i].bytes()});
  return files;
}

const std::string& Checkpoint::content_identity() const {
  if (!known_identity_.empty()) return known_identity_;
  std::call_once(identity_read_, [this] { identity_ = compute_identity(); });
  return identity_;
}

std::string Checkpoint::compute_identity() const {
  constexpr int64_t kSamples = 16;  // Per file: some milliseconds where nothing is in memory.
  constexpr int64_t kSampleBytes = 4096;
  std::string text = hash_;
  for (size_t i = 0; i < files_.size(); ++i) {
    const auto bytes = files_[i].bytes();
    const FileStamp& stamp = files_[i].stamp();
    text += fmt::format("\n{} {} {} {} {}", file_names_[i], stamp.bytes, stamp.inode, stamp.modified_ns,
                        stamp.changed_ns);
    const int64_t last = std::max<int64_t>(0, stamp.bytes - kSampleBytes);
    for (int64_t sample = 0; sample < kSamples; ++sample) {
      const int64_t begin = last / (kSamples - 1) * sample;
      const int64_t size = std::min(kSampleBytes, stamp.bytes - begin);
      text += fmt::format(" {:016x}",
                          ContentHash(bytes.subspan(static_cast<size_t>(begin), static_cast<size_t>(size))));
      files_[i].drop({begin, begin + size});
    }
  }
  return ContentHashHex(text);
}

bool Checkpoint::content_settled() const {
  if (content_vouched()) return true;
  constexpr int64_t kTickS = 2;  // FAT counts in steps of two seconds, the coarsest of all file systems.
  return std::ranges::all_of(files_, [&](const MappedFile& file) {
    const int64_t changed_s = std::max(file.stamp().changed_ns, file.stamp().modified_ns) / 1'000'000'000;
    return changed_s + kTickS < opened_unix_s_ && file.unchanged();
  });
}

std::vector<FileStamp> Checkpoint::stamps_now() const {
  std::vector<FileStamp> stamps;
  for (const MappedFile& file : files_) stamps.push_back(file.stamp_now());
  return stamps;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto at =
      std::ranges::lower_bound(tensors_, name, std::less<std::string_view>(),
                               [](const TensorInfo& tensor) { return std::string_view(tensor.name); });
  return at == tensors_.end() || at->name != name ? nullptr : &*at;
}

TensorView Checkpoint::view(const TensorInfo& info) const {
  const std::byte* data = info.file < 0 ? nullptr : files_[info.file].bytes().data() + info.bytes.begin;
  return {info.dtype, info.shape, data, info.bytes.size(), file_name(info)};
}

int64_t Checkpoint::SlotOf(const TensorInfo& info, int64_t index) {
  if (info.file < 0) return -1;
  if (info.held.empty()) return index;
  const auto at = std::ranges::lower_bound(info.held, index);
  return at == info.held.end() || *at != index ? -1 : at - info.held.begin();
}

const std::byte* Checkpoint::matrix(const TensorInfo& info, int64_t stack, int64_t index) const {
  // Some matrices of a stack are not what was asked for as a whole.
  const int64_t slot = stack > 0 ? SlotOf(info, index) : info.held.empty() && info.file >= 0 ? 0 : -1;
  if (slot < 0) return nullptr;
  const int64_t count = stack == 0 ? 1 : info.held.empty() ? stack : std::ssize(info.held);
  return files_[info.file].bytes().data() + info.bytes.begin + slot * (info.bytes.size() / count);
}

absl::StatusOr<TensorView> Checkpoint::view(std::string_view name, std::span<const DType> dtypes,
                                            std::span<const int64_t> shape) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) {
    std::vector<std::string> names;
    for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
    const std::string nearest = NearestWord(name, names);
    return NotFound("checkpoint: tensor '{}' in {}: expected {}, found no such tensor among {}{}", name,
                    folder_, DescribeExpected(dtypes, shape), tensors_.size(),
                    nearest.empty() ? "" : fmt::format("; nearest name: '{}'", Printable(nearest, 200)));
  }
  if (std::ranges::find(dtypes, info->dtype) == dtypes.end() || !std::ranges::equal(info->shape, shape) ||
      info->blocks != BlockType::kNone) {
    return InvalidArgument("checkpoint: tensor '{}' in {}: expected {}, found {}", name, file_name(*info),
                           DescribeExpected(dtypes, shape), DescribeTensor(*info));
  }
  return view(*info);
}

absl::StatusOr<BlockView> Checkpoint::view_blocks(const TensorInfo& info,
                                                  std::span<const int64_t> shape) const {
  SHOAL_CHECK(info.blocks != BlockType::kNone && shape.size() >= 2);
  if (!std::ranges::equal(info.shape, shape)) {
    return InvalidArgument("checkpoint: tensor '{}' in {}: expected {} [{}], found {}", info.name,
                           file_name(info), LawOf(info.blocks).name, fmt::join(shape, ", "),
                           DescribeTensor(info));
  }
  const int64_t elements = *ElementCount(shape);
  BlockView blocks{
      .type = info.blocks, .data = view(info).data, .rows = elements / shape.back(), .cols = shape.back()};
  if (!info.parts) return blocks;
  const auto at = [this](const TensorPlace& place) -> const std::byte* {
    return place.file < 0 ? nullptr : files_[place.file].bytes().data() + place.bytes.begin;
  };
  blocks.scales = at(info.parts->scales);
  blocks.scales_dtype = info.parts->scales.dtype;
  if (info.parts->zeros) blocks.zeros = at(*info.parts->zeros);
  if (info.parts->order) blocks.order = at(*info.parts->order);
  blocks.group = static_cast<int>(info.parts->group);
  blocks.group_rows = static_cast<int>(info.parts->group_rows);
  blocks.zero_offset = info.parts->zero_offset;
  return blocks;
}

std::pair<const MappedFile*, Range> Checkpoint::locate(const std::byte* data, int64_t bytes) const {
  for (const MappedFile& file : files_) {
    const auto whole = file.bytes();
    const std::less_equal<const std::byte*> not_after;
    if (not_after(whole.data(), data) && not_after(data + bytes, whole.data() + whole.size())) {
      const int64_t begin = data - whole.data();
      return {&file, {begin, begin + bytes}};
    }
  }
  CheckFailed(__FILE__, __LINE__, "the bytes lie in no file of this checkpoint");
}

void Checkpoint::will_need(const std::byte* data, int64_t bytes) const {
  const auto [file, range] = locate(data, bytes);
  file->will_need(range);
}

void Checkpoint::drop(const std::byte* data, int64_t bytes) const {
  const auto [file, range] = locate(data, bytes);
  file->drop(range);
}

}  // namespace shoal
