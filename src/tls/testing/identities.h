// For tests: nodes of a cluster with certificates, in a folder of their own.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"
#include "tls/authority.h"
#include "tls/identity.h"
#include "tls/private_file.h"

namespace shoal {

/// An authority; removes what it wrote when it goes.
class TestAuthority {
 public:
  TestAuthority()
      : folder_(std::filesystem::temp_directory_path() / fmt::format("shoal-tls-{:016x}", EntropySeed())) {
    auto made = MakeAuthority(kAuthorityDays, UnixSeconds() - 30 * kDay);
    SHOAL_CHECK(made.ok());
    authority_ = *std::move(made);
  }
  ~TestAuthority() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  const CertifiedKey& key() const { return authority_; }

  /// The files of a node of this name. Each call writes others.
  TlsFiles files_of(const NodeCertificateOrder& order) {
    const auto node = MakeNodeCertificate(authority_, order);
    SHOAL_CHECK(node.ok());
    const std::string folder = (folder_ / std::to_string(++written_)).string();
    std::filesystem::create_directories(folder);
    const TlsFiles files = TlsFiles::In(folder);
    SHOAL_CHECK(WritePrivateFile(files.authority, authority_.certificate).ok());
    SHOAL_CHECK(WritePrivateFile(files.certificate, node->certificate).ok());
    SHOAL_CHECK(WritePrivateFile(files.key, node->key).ok());
    return files;
  }

  std::shared_ptr<const TlsIdentity> node(const std::string& name) {
    auto identity = TlsIdentity::Load(files_of({.name = name}));
    SHOAL_CHECK(identity.ok());
    return *std::move(identity);
  }

  /// As node(), with a certificate that has ended.
  std::shared_ptr<const TlsIdentity> ended_node(const std::string& name) {
    const int64_t then_s = UnixSeconds() - 10 * kDay;
    auto identity = TlsIdentity::Load(files_of({.name = name, .days = 9, .now_s = then_s}), then_s + kDay);
    SHOAL_CHECK(identity.ok());
    return *std::move(identity);
  }

 private:
  static constexpr int64_t kDay = 86400;
  const std::filesystem::path folder_;
  CertifiedKey authority_;
  int written_ = 0;
};

}  // namespace shoal
