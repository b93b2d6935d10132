#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/progress.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "formats/safetensors.h"
#include "kv/block_pool.h"
#include "measure/logits_probe.h"

namespace shoal {
namespace {

struct LogitsFlags {
  std::string model;
  std::string ids;
  std::string out;
  std::string transport = "inproc";
  int64_t chunk = 0;
  ComputeFlags compute;
  PackedCacheFlags cache;
  std::string expert_memory;
  PlacementFlags placement;
};

absl::StatusOr<ProbeRequest> ReadRequest(const std::string& path) {
  constexpr int64_t kBytesMax = 64 << 20;
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kBytesMax));
  nlohmann::json json;
  RETURN_IF_ERROR(Annotate(ReadJson(text, {}, &json), path));
  if (!json.is_object())
    return InvalidArgument("{}: expected a JSON object {{\"ids\": [..], \"greedy\": 24}}", path);
  ProbeRequest request;
  for (const auto& [key, value] : json.items()) {
    if (key == "greedy") {
      if (!value.is_number_integer() || value.get<int64_t>() < 0) {
        return InvalidArgument("{}: 'greedy': expected a count, got {}", path, value.dump());
      }
      request.greedy = value.get<int64_t>();
    } else if (key == "ids") {
      if (!value.is_array()) return InvalidArgument("{}: 'ids': expected a list of token ids", path);
      for (const auto& id : value) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
          return InvalidArgument("{}: 'ids': expected token ids, got {}", path, id.dump());
        }
        request.ids.push_back(id.get<int32_t>());
      }
    } else {
      return InvalidArgument("{}: unknown key '{}'; known: ids, greedy", path, key);
    }
  }
  request.routing = true;
  return request;
}

absl::Status WriteResult(const std::string& path, const ProbeResult& result, int64_t rows) {
  std::vector<SafetensorsWriter::Entry> entries = {{"logits", DType::kF32, {rows, result.vocabulary}}};
  if (!result.greedy.empty()) {
    entries.push_back({"greedy", DType::kI32, {static_cast<int64_t>(result.greedy.size())}});
  }
  for (const auto& [layer, ids] : result.routing) {
    entries.push_back(
        {fmt::format("router.{}", layer), DType::kI32, {rows, static_cast<int64_t>(ids.size()) / rows}});
  }
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, entries));
  RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(result.logits))));
  RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(result.greedy))));
  for (const auto& [layer, ids] : result.routing)
    RETURN_IF_ERROR(writer.append(std::as_bytes(std::span(ids))));
  return writer.finish();
}

absl::Status Logits(const LogitsFlags& flags) {
  ASSIGN_OR_RETURN(ProbeRequest request, ReadRequest(flags.ids));
  request.chunk = flags.chunk;
  ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(flags.model));
  ASSIGN_OR_RETURN(LocalCluster::Options options,
                   LocalOptions(model, flags.placement, flags.compute, flags.transport));
  const auto positions = static_cast<int64_t>(request.ids.size()) + request.greedy;
  ASSIGN_OR_RETURN(options.packed_cache, flags.cache.open());
  ASSIGN_OR_RETURN(options.expert_memory, ParseExpertMemory(flags.expert_memory));
  options.limits = LimitsFor(model.spec, options.plan, {positions, 1}, std::max<int64_t>(positions, 1));
  ProgressBar bar("loading");
  options.progress = [&bar](int64_t done, int64_t total) { bar.update(done, total); };

  ASSIGN_OR_RETURN(const std::unique_ptr<LocalCluster> cluster, LocalCluster::Load(std::move(options)));
  PipelineEngine engine(kLocalLiveness);
  RETURN_IF_ERROR(cluster->open(cluster->plan(), engine));
  const absl::StatusOr<ProbeResult> result = ProbeLogits(engine, request);
  cluster->close(engine, Cancelled("done"));
  cluster->finish_saving();
  RETURN_IF_ERROR(result.status());
  return WriteResult(flags.out, *result, static_cast<int64_t>(request.ids.size()));
}

}  // namespace

Command AddLogitsCommand(Flags root) {
  auto flags = std::make_shared<LogitsFlags>();
  Flags app = root.add_subcommand(
      "logits",
      "Write the logits of given token ids, the experts chosen and a greedy continuation, for any placement");
  app.add_option("--model", flags->model, "Model folder, or a GGUF file").required();
  app.add_option("--ids", flags->ids, "JSON file: {\"ids\": [1, 2, 3], \"greedy\": 24}").required();
  app.add_option("--out", flags->out,
                 "Safetensors file to write: logits f32 [T, V], greedy i32 [24], router.<layer> i32 [T, K]")
      .required();
  app.add_option("--chunk", flags->chunk, "Prompt tokens per step (default: all)").range(1, 1 << 20);
  app.add_option("--transport", flags->transport,
                 "Between the nodes of a placement: inproc (default) or grpc");
  flags->compute.add_to(app);
  flags->cache.add_to(app);
  AddExpertMemoryOption(app, flags->expert_memory);
  flags->placement.add_to(app, false);
  return {app, [flags] { return Logits(*flags); }};
}

}  // namespace shoal
