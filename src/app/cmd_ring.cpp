// `shoal ring`: becomes `shoal serve` on rank 0, and `shoal worker` on all others.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "app/launch_commands.h"
#include "base/exposure.h"
#include "base/file.h"
#include "base/log.h"
#include "base/log_format.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "launch/env_file.h"
#include "launch/ring.h"

namespace shoal {
namespace {

constexpr int64_t kEnvFileMax = 1 << 20;
constexpr char kEnvFile[] = ".env";

struct RingFlags {
  std::map<std::string, std::string> values;  ///< By the names of variables.
  std::string env_file;
  bool insecure = false;
  bool show = false;
  std::vector<std::string> more;
};

absl::StatusOr<std::map<std::string, std::string>> ReadEnvFile(const std::string& given) {
  const std::string path = given.empty() ? kEnvFile : given;
  const auto text = ReadTextFile(path, kEnvFileMax);
  if (given.empty() && absl::IsNotFound(text.status())) return std::map<std::string, std::string>();
  if (!text.ok()) return text.status();
  auto values = ParseEnvFile(*text);
  if (!values.ok()) return Annotate(values.status(), path);
  return values;
}

absl::Status RunRing(const RingFlags& flags) {
  ASSIGN_OR_RETURN(const auto file, ReadEnvFile(flags.env_file));
  const RingValues values(
      flags.values,
      [](const std::string& name) -> std::optional<std::string> {
        const char* value = std::getenv(name.c_str());
        return value == nullptr ? std::nullopt : std::optional<std::string>(value);
      },
      file, flags.env_file.empty() ? kEnvFile : flags.env_file);
  ASSIGN_OR_RETURN(const Ring ring, ReadRing(values, flags.insecure, IsLoopback));
  std::vector<std::string> words = RingCommand(ring, flags.more);
  const std::string becomes =
      fmt::format("rank {} of {}: shoal {}", ring.rank, ring.world_size, Join(words, " "));
  if (LogWritesJson()) {
    LogInfo("{}", becomes);
  } else {
    fmt::print(stderr, "{}\n", becomes);
  }
  if (flags.show) return absl::OkStatus();
  // What else the file says to shoal, it says to the command, too.
  for (const auto& [name, value] : file) {
    if (name.starts_with("SHOAL_")) setenv(name.c_str(), value.c_str(), 0);
  }
  std::vector<char*> argv = {const_cast<char*>("shoal")};
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(OwnProgram().c_str(), argv.data());
  return Unavailable("ring: cannot run shoal again: {}", std::strerror(errno));
}

}  // namespace

Command AddRingCommand(Flags root) {
  auto flags = std::make_shared<RingFlags>();
  Flags app = root.add_subcommand(
      "ring", "The same command on every machine, each with its RANK: rank 0 serves, the others work for it");
  auto& values = flags->values;
  app.add_option("--model", values["SHOAL_MODEL"],
                 "Model folder or GGUF file, on this machine (SHOAL_MODEL)");
  app.add_option("--rank", values["RANK"], "From 0 to one below the world size (RANK)");
  app.add_option("--world-size", values["WORLD_SIZE"], "How many machines there are (WORLD_SIZE)");
  app.add_option("--master-addr", values["MASTER_ADDR"], "Where the others reach rank 0 (MASTER_ADDR)");
  app.add_option("--master-port", values["MASTER_PORT"],
                 "The port of rank 0 for the others (MASTER_PORT; 29500)");
  app.add_option("--api-host", values["API_HOST"],
                 "Addresses of the HTTP API on rank 0, as serve --host (API_HOST)");
  app.add_option("--api-port", values["API_PORT"], "Port of the HTTP API on rank 0 (API_PORT; 8000)");
  app.add_option("--key-file", values["SHOAL_KEY_FILE"],
                 "File with the cluster's key; all machines need the same (SHOAL_KEY_FILE)");
  app.add_option(
      "--tls-dir", values["SHOAL_TLS_DIR"],
      "Folder with this machine's certificate, for 'coordinator' on rank 0 and 'rank-N' on the others "
      "(SHOAL_TLS_DIR)");
  app.add_flag("--insecure", flags->insecure,
               "Work with machines beyond this one without a key: whoever reaches their ports may use them");
  app.add_option("--env-file", flags->env_file,
                 "Where variables are looked for that are not set (default .env)");
  app.add_flag("--show", flags->show, "Print the command that this machine would run, and end");
  app.add_option("more", flags->more, "Behind --: further flags of that command");
  return {app, [flags] { return RunRing(*flags); }};
}

}  // namespace shoal
