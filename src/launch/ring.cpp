#include "launch/ring.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

#include "base/exposure.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr int kWorldMax = 256;

bool IsHostName(const std::string& host) {
  return host.front() != '-' && std::ranges::all_of(host, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
                  c == '-' || c == '_' || c == ':' || c == '%';
         });
}

/// "it" of "it/" and of "it".
std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

RingValues::RingValues(std::map<std::string, std::string> flags, Lookup environment,
                       std::map<std::string, std::string> file, std::string file_name)
    : flags_(std::move(flags)),
      environment_(std::move(environment)),
      file_(std::move(file)),
      file_name_(std::move(file_name)) {}

std::optional<RingValues::Value> RingValues::find(const std::string& name) const {
  if (const auto flag = flags_.find(name); flag != flags_.end() && !flag->second.empty()) {
    return Value{flag->second, "from a flag"};
  }
  if (const auto variable = environment_(name); variable.has_value() && !variable->empty()) {
    return Value{*variable, "from the environment"};
  }
  if (const auto line = file_.find(name); line != file_.end() && !line->second.empty()) {
    return Value{line->second, "from " + file_name_};
  }
  return std::nullopt;
}

std::string RingValues::text(const std::string& name) const {
  const auto value = find(name);
  return value.has_value() ? value->text : "";
}

std::string RingValues::origin(const std::string& name) const {
  const auto value = find(name);
  return value.has_value() ? fmt::format("{}='{}', {}", name, value->text, value->from)
                           : name + ", which is not set";
}

absl::StatusOr<int> RingValues::integer(const std::string& name, int low, int high,
                                        std::optional<int> otherwise) const {
  const auto value = find(name);
  if (!value.has_value()) {
    if (otherwise.has_value()) return *otherwise;
    return InvalidArgument(
        "ring: {} is not set: a number from {} to {}, in the environment, in {}, or as a flag", name, low,
        high, file_name_);
  }
  int number = 0;
  const char* end = value->text.data() + value->text.size();
  const auto [at, error] = std::from_chars(value->text.data(), end, number);
  if (error == std::errc() && at == end && number >= low && number <= high) return number;
  return InvalidArgument("ring: {}: expected a whole number from {} to {}", origin(name), low, high);
}

absl::StatusOr<Ring> ReadRing(const RingValues& values, bool insecure,
                              const std::function<bool(const std::string& host)>& is_loopback) {
  Ring ring{.insecure = insecure};
  ASSIGN_OR_RETURN(ring.world_size, values.integer("WORLD_SIZE", 1, kWorldMax, std::nullopt));
  ASSIGN_OR_RETURN(ring.rank, values.integer("RANK", 0, kWorldMax - 1, std::nullopt));
  if (ring.rank >= ring.world_size) {
    return InvalidArgument("ring: {}: expected a rank below WORLD_SIZE={}; ranks count from 0",
                           values.origin("RANK"), ring.world_size);
  }
  ring.master_addr = values.text("MASTER_ADDR");
  if (ring.master_addr.empty() && ring.world_size > 1) {
    return InvalidArgument(
        "ring: MASTER_ADDR is not set: the name or address at which the others reach rank 0");
  }
  if (!ring.master_addr.empty() && !IsHostName(ring.master_addr)) {
    return InvalidArgument("ring: {}: expected a host name or address, without a port (that is MASTER_PORT)",
                           values.origin("MASTER_ADDR"));
  }
  ASSIGN_OR_RETURN(ring.master_port, values.integer("MASTER_PORT", 1, 65535, ring.master_port));
  ASSIGN_OR_RETURN(ring.api_port, values.integer("API_PORT", 0, 65535, ring.api_port));
  ring.api_host = values.text("API_HOST");
  if (ring.rank == 0 && ring.world_size > 1 && ring.api_port == ring.master_port) {
    return InvalidArgument("ring: API_PORT and MASTER_PORT are both {}; they are two ports of rank 0",
                           ring.api_port);
  }
  ring.key_file = values.text("SHOAL_KEY_FILE");
  ring.tls_dir = values.text("SHOAL_TLS_DIR");
  const bool open = ring.key_file.empty() && ring.tls_dir.empty();
  if (ring.world_size > 1 && open && !insecure && !is_loopback(ring.master_addr)) {
    return InvalidArgument(
        "ring: {}: other machines can reach it, and without a key anybody there could join; give each "
        "machine the same "
        "--key-file FILE (make one: umask 077; openssl rand -hex 32 > FILE), its --tls-dir DIR (shoal cert "
        "init), "
        "or --insecure",
        values.origin("MASTER_ADDR"));
  }
  const std::string model = values.text("SHOAL_MODEL");
  if (model.empty()) return InvalidArgument("ring: no model: give --model, or set SHOAL_MODEL");
  ring.model = WithoutSlash(std::filesystem::absolute(model).lexically_normal());
  std::error_code error;
  if (!std::filesystem::exists(ring.model, error)) {
    return InvalidArgument("ring: {}: no such folder or file on this machine", values.origin("SHOAL_MODEL"));
  }
  return ring;
}

std::vector<std::string> RingCommand(const Ring& ring, const std::vector<std::string>& more) {
  std::vector<std::string> words;
  const auto add = [&words](std::initializer_list<std::string> some) {
    words.insert(words.end(), some.begin(), some.end());
  };
  if (ring.rank == 0) {
    add({"serve", "--model", ring.model, "--port", std::to_string(ring.api_port)});
    if (!ring.api_host.empty()) add({"--host", ring.api_host});
    if (ring.world_size > 1) {
      // Others know this machine by a name that may be 127.0.1.1 on itself.
      const std::string host = IsLoopback(ring.master_addr) ? "127.0.0.1" : "::";
      add({"--join-listen", HostPort{host, ring.master_port}.to_string()});
      add({"--await-ranks", std::to_string(ring.world_size - 1)});
    }
  } else {
    add({"worker", "--join", HostPort{ring.master_addr, ring.master_port}.to_string()});
    // The name belongs to the rank: one that comes back from another machine is the same node.
    add({"--rank", std::to_string(ring.rank), "--name", fmt::format("rank-{}", ring.rank)});
    add({"--model-root", std::filesystem::path(ring.model).parent_path()});
  }
  if (!ring.key_file.empty()) add({"--key-file", ring.key_file});
  if (!ring.tls_dir.empty()) add({"--tls-dir", ring.tls_dir});
  if (ring.insecure) add({"--insecure"});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace shoal
