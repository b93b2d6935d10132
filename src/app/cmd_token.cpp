#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "api/api_keys.h"
#include "app/command.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "tls/certificate.h"
#include "tls/digest.h"
#include "tls/private_file.h"
#include "wire/join_token.h"
#include "wire/key_auth.h"

namespace shoal {
namespace {

constexpr size_t kAddressesMax = 8;
constexpr size_t kKeyBytes = 32;
constexpr size_t kApiKeyBytes = 24;

struct TokenFlags {
  std::string key_file;
  std::string tls_dir;
  std::vector<std::string> addresses;
  int port = 50050;
};

/// A file with a new key, which only its owner may read.
absl::Status MakeKeyFile(const std::string& path) {
  return Annotate(WritePrivateFile(path, RandomHex(kKeyBytes) + "\n"), "--key-file");
}

struct ApiKeyFlags {
  std::string name;
  std::string file;
};

/// Prints a key for a client, and what the server's file is to have of it: the key itself is kept nowhere.
absl::Status CreateApiKey(const ApiKeyFlags& flags) {
  const std::string key = "sk-shoal-" + RandomHex(kApiKeyBytes);
  std::string line = "sha256:" + Sha256Hex(key);
  if (!flags.name.empty()) line += " name=" + flags.name;
  RETURN_IF_ERROR(Annotate(ParseApiKeys(line, "the line").status(), "--name"));
  if (flags.file.empty()) {
    std::fprintf(stderr, "for the server's --api-key-file:\n%s\nfor the client:\n", line.c_str());
  } else {
    line += '\n';
    const int fd = ::open(flags.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) return InvalidArgument("--file '{}': cannot be opened: {}", flags.file, std::strerror(errno));
    const bool written = ::write(fd, line.data(), line.size()) == std::ssize(line);
    if (::close(fd) != 0 || !written)
      return ResourceExhausted("--file '{}': cannot be written: {}", flags.file, std::strerror(errno));
  }
  std::printf("%s\n", key.c_str());
  return absl::OkStatus();
}

absl::Status CreateToken(const TokenFlags& flags) {
  auto auth = KeyAuth::from_file(flags.key_file);
  if (absl::IsNotFound(auth.status())) {
    RETURN_IF_ERROR(MakeKeyFile(flags.key_file));
    std::fprintf(stderr, "made a new key: %s\n", flags.key_file.c_str());
    auth = KeyAuth::from_file(flags.key_file);
  }
  RETURN_IF_ERROR(auth.status());
  JoinToken token;
  ASSIGN_OR_RETURN(token.key, ReadTextFile(flags.key_file, kKeyFileBytesMax));
  while (!token.key.empty() && (token.key.back() == '\n' || token.key.back() == '\r')) token.key.pop_back();
  if (!flags.tls_dir.empty()) {
    const std::string path = flags.tls_dir + "/ca.pem";
    ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(path, kPemBytesMax));
    ASSIGN_OR_RETURN(token.authority, DerOfCertificate(pem, path));
  }
  for (const std::string& one : flags.addresses) {
    const auto whole = ParseHostPort(one);
    token.addresses.push_back(whole.ok() ? whole->to_string() : HostPort{one, flags.port}.to_string());
  }
  if (token.addresses.empty()) {
    for (const std::string& host : OwnAddresses())
      token.addresses.push_back(HostPort{host, flags.port}.to_string());
  }
  if (token.addresses.size() > kAddressesMax) token.addresses.resize(kAddressesMax);
  if (token.addresses.empty()) {
    return InvalidArgument("this machine has no address that others could reach: give --address HOST:PORT");
  }
  const std::string text = FormatJoinToken(token);
  RETURN_IF_ERROR(Annotate(ParseJoinToken(text).status(), "what --address and --key-file give"));
  std::fprintf(stderr,
               "Whoever has this token has the cluster's key%s. It is good for any number of workers, until "
               "the key is "
               "changed.\n"
               "  here:      shoal serve --model DIR --key-file %s%s --join-listen 0.0.0.0:%d\n"
               "  a worker:  shoal worker --model-root DIR --join TOKEN      (at %s)\n",
               token.authority.empty() ? "" : ", and gets a certificate by it", flags.key_file.c_str(),
               token.authority.empty() ? "" : (" --tls-dir " + flags.tls_dir).c_str(), flags.port,
               Join(token.addresses, ", ").c_str());
  std::printf("%s\n", text.c_str());
  return absl::OkStatus();
}

}  // namespace

Command AddTokenCommand(Flags root) {
  auto flags = std::make_shared<TokenFlags>();
  const Flags token = root.add_subcommand(
      "token", "Make a token with which workers join, or a key of the API: shoal token create, api-key");
  Flags app =
      Flags(token).add_subcommand("create", "Print a token: this machine's addresses and the cluster's key");
  app.add_option("--key-file", flags->key_file, "File with the cluster's key; made where there is none")
      .required();
  app.add_option("--tls-dir", flags->tls_dir,
                 "Folder of shoal cert init, which the coordinator has: workers that join get their "
                 "certificates from there");
  app.add_option("--address", flags->addresses,
                 "HOST or HOST:PORT where workers reach this machine; repeatable (default: all that it has)");
  app.add_option("--port", flags->port, "Of serve --join-listen (default 50050)").range(1, 65535);
  auto api_key = std::make_shared<ApiKeyFlags>();
  Flags api =
      Flags(token).add_subcommand("api-key", "Print a new key for a client of the HTTP API, and its digest");
  api.add_option("--name", api_key->name, "Of who uses it, for logs and limits");
  api.add_option("--file", api_key->file, "The server's --api-key-file, to which the digest is added");
  return {token, [flags, app, api, api_key] {
            if (app.parsed()) return CreateToken(*flags);
            if (api.parsed()) return CreateApiKey(*api_key);
            return InvalidArgument(
                "expected: shoal token create --key-file FILE, or shoal token api-key --name NAME");
          }};
}

}  // namespace shoal
