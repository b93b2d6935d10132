#include "app/command.h"
#include "app/progress.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "convert/synth_model.h"

namespace shoal {
namespace {

struct SynthFlags {
  std::string shape;
  std::string config;
  std::string out;
  std::string dtype = "bf16";
  int64_t layers = 0;
  int bits = 0;
  int group = 64;
  uint64_t seed = 1;
  std::string shard = "4GiB";
};

/// More than any config.json has.
constexpr int64_t kConfigBytesMax = 16 << 20;

absl::Status Synth(const SynthFlags& flags) {
  SynthOptions options;
  if (!flags.shape.empty()) {
    ASSIGN_OR_RETURN(options.config_json, SynthPreset(flags.shape));
  } else {
    ASSIGN_OR_RETURN(options.config_json, ReadTextFile(flags.config, kConfigBytesMax));
  }
  options.out = flags.out;
  if (flags.layers > 0) options.layers = flags.layers;
  if (flags.bits > 0) options.quantization = AffineFormat{flags.bits, flags.group};
  if (flags.dtype == "f16") {
    options.dtype = DType::kF16;
  } else if (flags.dtype == "f32") {
    options.dtype = DType::kF32;
  } else if (flags.dtype != "bf16") {
    return InvalidArgument("--dtype '{}': expected bf16, f16 or f32", flags.dtype);
  }
  options.seed = flags.seed;
  ASSIGN_OR_RETURN(options.file_bytes_max, ParseBytes(flags.shard));
  ProgressBar bar("writing");
  return SynthesizeModel(options, [&bar](int64_t done, int64_t total) { bar.update(done, total); });
}

}  // namespace

Command AddSynthCommand(Flags root) {
  auto flags = std::make_shared<SynthFlags>();
  Flags app =
      root.add_subcommand("synth", "Write a random checkpoint of any config, for tests and benchmarks");
  const Flag shape =
      app.add_option("--shape", flags->shape, "A: Qwen3-1.7B; B: Qwen3-30B-A3B cut to 6 layers");
  const Flag config = app.add_option("--config", flags->config, "A config.json to follow").excludes(shape);
  shape.excludes(config);
  app.add_option("--out", flags->out, "Folder to make").required();
  app.add_option("--layers", flags->layers, "Instead of num_hidden_layers").range(1, 10000);
  app.add_option("--bits", flags->bits, "MLX affine quantization: 2, 3, 4, 5, 6 or 8 bits (default: none)")
      .one_of({2, 3, 4, 5, 6, 8});
  app.add_option("--group", flags->group, "Columns per scale: 32, 64 (default) or 128").one_of({32, 64, 128});
  app.add_option("--dtype", flags->dtype, "Of unquantized weights: bf16 (default), f16, f32");
  app.add_option("--seed", flags->seed, "Same seed, same weights");
  app.add_option("--shard", flags->shard, "Largest size of one file (default 4GiB)");
  app.require([flags] { return flags->shape.empty() && flags->config.empty() ? "--shape or --config" : ""; });
  return {app, [flags] { return Synth(*flags); }};
}

}  // namespace shoal
