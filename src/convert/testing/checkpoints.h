// Checkpoints for tests: random ones of every family's tiny config, and damaged copies of them.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mlx_quant.h"
#include "numeric/dtype.h"

namespace shoal {

/// A folder that is removed with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// The families that have layers of their own (Family::like), by model_type: for tests of what layers do. All where
/// SweepsAllFamilies (harness/sweep.h).
std::vector<std::string> FamiliesToSweep();

/// One for each kind of attention: grouped queries, with windows, with sinks, with soft caps, in chunks, latent, and with
/// recurrent layers in between.
std::vector<std::string> FamiliesPerAttention();

/// One for each kind of what layers cache: keys and values, also of windows, chunks and long rope, latents, keys of an
/// indexer, pooled entries, states of each mixer, and both; or FamiliesToSweep() where all are swept. For tests of what
/// caches do, which do not look at the rest of a layer.
std::vector<std::string> FamiliesPerCache();

/// One for each kind of routed experts: plain, grouped, with biases, with factors of inputs, without gates, fused, beside
/// an MLP, with identities, chosen by token; or all of FamiliesToSweep() that have some where all are swept.
std::vector<std::string> FamiliesPerExperts();

/// All families of the three lists above, by name; or FamiliesToSweep() where all are swept. What others compute is made of
/// the same parts.
std::vector<std::string> FamiliesOfEachKind();

/// The families that are like another and not swept.
std::vector<std::string> RenamedFamilies();

/// A random checkpoint of a family's tiny config, made once per process. CHECKs that it could be made.
const std::string& TinyCheckpoint(std::string_view family, std::optional<AffineFormat> format = std::nullopt);

/// The same of a family that knows heads for multi-token prediction, with one.
const std::string& MtpCheckpoint(std::string_view family, std::optional<AffineFormat> format = std::nullopt);

/// A copy of it in bf16 that says one cycle through all ids, NextInChain after each, and whose head foresees it.
const std::string& MtpChainCheckpoint(std::string_view family);
int32_t NextInChain(int32_t token);

/// A tensor on its way into a copy.
struct EditableTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

/// Copies a checkpoint into `folder`; `edit` may change the tensors. CHECKs that it can.
void CopyCheckpoint(const std::string& from, const std::string& folder,
                    const std::function<void(std::vector<EditableTensor>&)>& edit);

/// The tensor of that name; CHECKs that there is one.
EditableTensor& TensorNamed(std::vector<EditableTensor>& tensors, std::string_view name);

}  // namespace shoal
