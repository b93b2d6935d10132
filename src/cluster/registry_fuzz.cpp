// Any text as what a registry says of a coordinator (a TXT record of DNS-SD, a value in etcd): addresses that can be asked,
// few of them, each once; never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "cluster/registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto addresses = shoal::AddressesOf(text);
  for (const std::string& one : addresses) {
    const auto address = shoal::ParseHostPort(one);
    SHOAL_CHECK(address.ok() && address->port > 0 && !address->host.empty());
  }
  SHOAL_CHECK(shoal::AddressesOf(shoal::Join(addresses, ",")) == addresses);
  // Of a command line: opening asks nobody yet. What names etcd would make channels, and is left out.
  if (!text.starts_with("etcd://") && text != "dns-sd") {
    const auto registry = shoal::OpenRegistry(text);
    if (registry.ok()) SHOAL_CHECK(!(*registry)->what().empty());
  }
  return 0;
}
