#include "app/command.h"
#include "app/progress.h"
#include "base/status.h"
#include "base/text.h"
#include "models/convert.h"

namespace shoal {
namespace {

struct ConvertFlags {
  std::string model;
  std::string out;
  std::string quant;
  std::string shard = "4GiB";
  int jobs = 0;
};

absl::Status Convert(const ConvertFlags& flags) {
  ConvertOptions options{.out = flags.out};
  ASSIGN_OR_RETURN(options.format, ParseConvertFormat(flags.quant));
  ASSIGN_OR_RETURN(options.shard_bytes, ParseBytes(flags.shard));
  options.threads = ComputeFlags{.threads = flags.jobs}.chosen_threads();
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  absl::StatusOr<ConvertReport> report;
  {
    ProgressBar bar("converting");
    options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };
    report = ConvertModel(*model.checkpoint, model.spec, options);
  }
  RETURN_IF_ERROR(report.status());
  std::vector<std::string> kinds;
  for (const auto& [format, count] : report->matrices)
    kinds.push_back(fmt::format("{} matrices {}", count, format));
  fmt::print("{}: {}, {:.2f} bits per weight; {}{}\n", flags.out, FormatBytes(report->bytes),
             8.0 * static_cast<double>(report->bytes) / static_cast<double>(report->parameters),
             Join(kinds, ", "),
             report->shards_kept == 0
                 ? ""
                 : fmt::format("; {} of {} files were there", report->shards_kept, report->shards));
  return absl::OkStatus();
}

}  // namespace

Command AddConvertCommand(CLI::App& root) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* app = root.add_subcommand(
      "convert", "Write a model as an MLX folder, quantized or bf16; cut off, it goes on where it was");
  app->add_option("--model", flags->model, "Model folder, or a GGUF file")->required();
  app->add_option("--out", flags->out, "Folder to write")->required();
  app->add_option("--quant", flags->quant,
                  "affine-4-g64, affine-8-g64 (2 to 8 bits, groups of 32, 64 or 128), mixed, or bf16")
      ->required();
  app->add_option("--jobs", flags->jobs, "Threads (default: one per core)")->check(CLI::Range(1, 1024));
  app->add_option("--shard", flags->shard, "Largest file of weights (default 4GiB)");
  return {app, [flags] { return Convert(*flags); }};
}

}  // namespace shoal
