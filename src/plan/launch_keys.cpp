#include "plan/launch_keys.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

bool IsWordCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' ||
         c == '-';
}

/// Letters, digits and "._-", and no "-" or "." first: a flag to no program, and a file's name.
bool IsPlainWord(std::string_view text) {
  return !text.empty() && text.front() != '-' && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), IsWordCharacter);
}

bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

/// Text that becomes an argument or a path: not empty, one line.
absl::StatusOr<std::string> LineOf(const ConfigCursor& cursor) {
  ASSIGN_OR_RETURN(std::string text, cursor.text());
  if (text.empty() || HasControlCharacter(text))
    return cursor.expected("a text of one line that is not empty");
  return text;
}

absl::Status OptionalLine(const ConfigCursor& map, std::string_view key, std::string& target) {
  if (!map.has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(target, LineOf(cursor));
  return absl::OkStatus();
}

absl::Status OptionalPort(const ConfigCursor& map, std::string_view key, int& target) {
  if (!map.has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  ASSIGN_OR_RETURN(const int64_t port, cursor.integer(1, 65535));
  target = static_cast<int>(port);
  return absl::OkStatus();
}

/// A path that stands in quotes where ssh reads options.
absl::Status OptionalSshPath(const ConfigCursor& map, std::string_view key, std::string& target) {
  RETURN_IF_ERROR(OptionalLine(map, key, target));
  if (target.find_first_of("\"\\") == std::string::npos) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, map.at(key));
  return cursor.expected("a path without \" and \\, which ssh does not take there");
}

absl::Status ReadSsh(const ConfigCursor& device, DeviceLaunch& launch) {
  if (!device.has("ssh")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("ssh"));
  RETURN_IF_ERROR(cursor.expect_keys({"host", "user", "port", "identity", "known_hosts"}));
  SshKeys ssh = launch.ssh.value_or(SshKeys());
  RETURN_IF_ERROR(OptionalLine(cursor, "host", ssh.host));
  RETURN_IF_ERROR(OptionalLine(cursor, "user", ssh.user));
  // An IPv6 address is the only host with other characters.
  const auto is_address = [](std::string_view host) {
    return host.find(':') != std::string_view::npos && std::all_of(host.begin(), host.end(), [](char c) {
             return IsWordCharacter(c) || c == ':' || c == '%';
           });
  };
  if (!ssh.host.empty() && !IsPlainWord(ssh.host) && !is_address(ssh.host)) {
    ASSIGN_OR_RETURN(const ConfigCursor host, cursor.at("host"));
    return host.expected("a host name or address, without user or port");
  }
  if (!ssh.user.empty() && !IsPlainWord(ssh.user)) {
    ASSIGN_OR_RETURN(const ConfigCursor user, cursor.at("user"));
    return user.expected("a user's name of letters, digits and ._-");
  }
  RETURN_IF_ERROR(OptionalPort(cursor, "port", ssh.port));
  RETURN_IF_ERROR(OptionalSshPath(cursor, "identity", ssh.identity));
  RETURN_IF_ERROR(OptionalSshPath(cursor, "known_hosts", ssh.known_hosts));
  launch.ssh = std::move(ssh);
  return absl::OkStatus();
}

absl::Status ReadModelRoots(const ConfigCursor& device, DeviceLaunch& launch) {
  if (!device.has("model_root")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("model_root"));
  std::vector<ConfigCursor> roots = {cursor};
  if (cursor.is(ConfigValue::Kind::kList)) {
    ASSIGN_OR_RETURN(roots, cursor.list());
  }
  launch.model_roots.clear();
  for (const ConfigCursor& root : roots) {
    ASSIGN_OR_RETURN(const std::string path, LineOf(root));
    launch.model_roots.push_back(path);
  }
  return absl::OkStatus();
}

/// Values may be texts, numbers or true and false, as people write them in YAML.
absl::StatusOr<std::string> EnvValue(const ConfigCursor& entry) {
  if (entry.is(ConfigValue::Kind::kInteger)) {
    ASSIGN_OR_RETURN(const int64_t number, entry.integer(INT64_MIN, INT64_MAX));
    return fmt::format("{}", number);
  }
  if (entry.is(ConfigValue::Kind::kBool)) {
    ASSIGN_OR_RETURN(const bool value, entry.boolean());
    return value ? "true" : "false";
  }
  ASSIGN_OR_RETURN(std::string text, entry.text());
  if (std::ranges::count(text, '\0') > 0) return entry.error("a variable can't have a NUL byte");
  return text;
}

absl::Status ReadEnv(const ConfigCursor& device, DeviceLaunch& launch) {
  if (!device.has("env")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("env"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> entries, cursor.entries());
  for (const ConfigCursor& entry : entries) {
    const std::string& name = entry.key();
    const bool digit_first = !name.empty() && name.front() >= '0' && name.front() <= '9';
    const bool plain = IsPlainWord(name) && !digit_first && name.find_first_of(".-") == std::string::npos;
    if (!plain) return entry.error("expected a variable's name: letters, digits and _, no digit first");
    ASSIGN_OR_RETURN(launch.env[name], EnvValue(entry));
  }
  return absl::OkStatus();
}

absl::Status ReadFlags(const ConfigCursor& device, DeviceLaunch& launch) {
  if (!device.has("flags")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("flags"));
  ASSIGN_OR_RETURN(const std::vector<ConfigCursor> items, cursor.list());
  for (const ConfigCursor& item : items) {
    if (item.is(ConfigValue::Kind::kInteger)) {  // ["--threads", 2]
      ASSIGN_OR_RETURN(const int64_t number, item.integer(INT64_MIN, INT64_MAX));
      launch.flags.push_back(fmt::format("{}", number));
      continue;
    }
    ASSIGN_OR_RETURN(const std::string flag, LineOf(item));
    launch.flags.push_back(flag);
  }
  return absl::OkStatus();
}

absl::Status CheckWorkdir(const ConfigCursor& device, const DeviceLaunch& launch) {
  const std::string& path = launch.workdir;
  const bool absolute = path.starts_with("/") && path.find_first_not_of('/') != std::string::npos;
  if (path.empty() || absolute || (path.starts_with("~/") && path.size() > 2)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor cursor, device.at("workdir"));
  return cursor.expected("a folder of its own: /an/absolute/path, or ~/one/below/the/home");
}

}  // namespace

absl::Status ReadDeviceLaunch(const ConfigCursor& device, DeviceLaunch& launch) {
  RETURN_IF_ERROR(ReadSsh(device, launch));
  RETURN_IF_ERROR(OptionalLine(device, "workdir", launch.workdir));
  RETURN_IF_ERROR(CheckWorkdir(device, launch));
  RETURN_IF_ERROR(OptionalLine(device, "binary", launch.binary));
  RETURN_IF_ERROR(ReadModelRoots(device, launch));
  RETURN_IF_ERROR(ReadEnv(device, launch));
  return ReadFlags(device, launch);
}

absl::Status ReadLaunchSection(const ConfigCursor& root, LaunchKeys& keys, DeviceLaunch& all) {
  if (!root.has("launch")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ConfigCursor section, root.at("launch"));
  RETURN_IF_ERROR(section.expect_keys({"name", "key_file", "tls_dir", "api_host", "api_port", "ssh",
                                       "workdir", "binary", "model_root", "env", "flags"}));
  RETURN_IF_ERROR(OptionalLine(section, "name", keys.name));
  if (!keys.name.empty() && !IsPlainWord(keys.name)) {
    ASSIGN_OR_RETURN(const ConfigCursor name, section.at("name"));
    return name.expected("a name of letters, digits and ._-, as it is part of a path");
  }
  RETURN_IF_ERROR(OptionalLine(section, "key_file", keys.key_file));
  RETURN_IF_ERROR(OptionalLine(section, "tls_dir", keys.tls_dir));
  RETURN_IF_ERROR(OptionalLine(section, "api_host", keys.api_host));
  RETURN_IF_ERROR(OptionalPort(section, "api_port", keys.api_port));
  return ReadDeviceLaunch(section, all);
}

}  // namespace shoal
