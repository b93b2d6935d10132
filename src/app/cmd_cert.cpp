// `shoal cert`: the cluster's certificate authority, in a folder.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "app/command.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "base/text.h"
#include "tls/authority.h"
#include "tls/certificate.h"
#include "tls/identity.h"
#include "tls/private_file.h"

namespace shoal {
namespace {

struct CertFlags {
  std::string folder;
  std::vector<std::string> nodes;
  std::vector<std::string> addresses;
  int days = kNodeDays;
};

std::string AuthorityFile(const std::string& folder) { return folder + "/ca.pem"; }
std::string AuthorityKeyFile(const std::string& folder) { return folder + "/ca.key"; }

absl::Status MakeFolder(const std::string& folder) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(folder, error);
  if (error) return InvalidArgument("'{}' cannot be made: {}", folder, error.message());
  if (made) std::filesystem::permissions(folder, std::filesystem::perms::owner_all, error);
  return absl::OkStatus();
}

absl::StatusOr<CertifiedKey> OpenAuthority(const std::string& folder) {
  auto authority = ReadAuthority(folder);
  if (!absl::IsNotFound(authority.status())) return authority;
  return NotFound("'{}' holds no authority ({}): make one with shoal cert init {}", folder,
                  Message(authority.status()), folder);
}

/// Writes the folder of a node, which takes the place of an older one.
absl::Status WriteNode(const std::string& folder, const CertifiedKey& authority,
                       const NodeCertificateOrder& order) {
  ASSIGN_OR_RETURN(const CertifiedKey node, MakeNodeCertificate(authority, order));
  const std::string own = folder + "/" + order.name;
  RETURN_IF_ERROR(MakeFolder(own));
  const TlsFiles files = TlsFiles::In(own);
  for (const auto& [path, text] :
       {std::pair(files.authority, &authority.certificate), std::pair(files.certificate, &node.certificate),
        std::pair(files.key, &node.key)}) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    RETURN_IF_ERROR(WritePrivateFile(path, *text));
  }
  ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(node.certificate, files.certificate));
  std::printf("%s: for '%s', until %s: copy this folder to the node, and start it with --tls-dir\n",
              own.c_str(), order.name.c_str(), DayOf(facts.ends_s).c_str());
  return absl::OkStatus();
}

absl::Status WriteNodes(const CertFlags& flags, const CertifiedKey& authority) {
  for (const std::string& node : flags.nodes) {
    RETURN_IF_ERROR(
        WriteNode(flags.folder, authority, {.name = node, .addresses = flags.addresses, .days = flags.days}));
  }
  return absl::OkStatus();
}

absl::Status Init(CertFlags flags) {
  for (const std::string& node : flags.nodes) {
    if (!IsCertifiableName(node))
      return InvalidArgument("--node '{}': expected letters, digits, '-', '_' and '.', at most 63 of them",
                             node);
  }
  RETURN_IF_ERROR(MakeFolder(flags.folder));
  ASSIGN_OR_RETURN(const CertifiedKey authority, MakeAuthority());
  const absl::Status written = WritePrivateFile(AuthorityKeyFile(flags.folder), authority.key);
  if (absl::IsAlreadyExists(written)) {
    return InvalidArgument("'{}' holds an authority already: add nodes with shoal cert node NAME --dir {}",
                           flags.folder, flags.folder);
  }
  RETURN_IF_ERROR(written);
  RETURN_IF_ERROR(WritePrivateFile(AuthorityFile(flags.folder), authority.certificate));
  std::printf("%s: the authority's key: whoever has it can make nodes; keep it off them\n",
              AuthorityKeyFile(flags.folder).c_str());
  // Each cluster has one, and none asks for it by name.
  if (std::ranges::find(flags.nodes, kCoordinatorName) == flags.nodes.end())
    flags.nodes.insert(flags.nodes.begin(), kCoordinatorName);
  return WriteNodes(flags, authority);
}

absl::Status AddNodes(const CertFlags& flags) {
  ASSIGN_OR_RETURN(const CertifiedKey authority, OpenAuthority(flags.folder));
  return WriteNodes(flags, authority);
}

absl::Status Show(const CertFlags& flags) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(flags.folder, ignored);
  const std::string path = !folder ? flags.folder
                           : std::filesystem::exists(TlsFiles::In(flags.folder).certificate, ignored)
                               ? TlsFiles::In(flags.folder).certificate
                               : AuthorityFile(flags.folder);
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kPemBytesMax));
  ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(text, path));
  const std::string warning = ExpiryWarning(facts, UnixSeconds());
  std::printf("%s\n  of      %s\n  names   %s\n  begins  %s\n  ends    %s%s\n", path.c_str(),
              facts.subject.c_str(), Join(facts.names, ", ").c_str(), DayOf(facts.begins_s).c_str(),
              DayOf(facts.ends_s).c_str(), warning.empty() ? "" : (", soon: " + warning).c_str());
  return absl::OkStatus();
}

void AddNodeOptions(Flags app, CertFlags& flags) {
  app.add_option("--address", flags.addresses,
                 "A name or IP address at which HTTPS clients reach these nodes, too; repeatable");
  app.add_option("--days", flags.days, "For which the certificates are good (default 730)")
      .range(1, kDaysMax);
}

}  // namespace

Command AddCertCommand(Flags root) {
  auto flags = std::make_shared<CertFlags>();
  Flags cert =
      root.add_subcommand("cert", "Certificates for the nodes of a cluster: shoal cert init, node, show");
  Flags init = cert.add_subcommand(
      "init", "Make a certificate authority, and a certificate for the coordinator and each --node");
  init.add_option("dir", flags->folder, "Folder to make").required();
  init.add_option("--node", flags->nodes, "A node, as plans name it (worker --name); repeatable");
  AddNodeOptions(init, *flags);
  Flags node = cert.add_subcommand("node", "Make a certificate for one more node, or another for one");
  node.add_option("name", flags->nodes, "Of the node, as plans name it; several may be given").required();
  node.add_option("--dir", flags->folder, "Folder of shoal cert init").required();
  AddNodeOptions(node, *flags);
  Flags show = cert.add_subcommand("show", "Say whom a certificate names, and until when it is good");
  show.add_option("path", flags->folder, "The certificate, or its folder").required();
  return {cert, [flags, init, node, show] {
            if (init.parsed()) return Init(*flags);
            if (node.parsed()) return AddNodes(*flags);
            if (show.parsed()) return Show(*flags);
            return InvalidArgument(
                "expected: shoal cert init DIR --node NAME ..., shoal cert node NAME --dir DIR, or shoal "
                "cert show DIR");
          }};
}

}  // namespace shoal
