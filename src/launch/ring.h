// `shoal ring`: the same command on every machine, each with its rank, as distributed jobs are started elsewhere.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// What a ring is made of, as texts: from flags, the environment or a .env file, the first that has it.
class RingValues {
 public:
  using Lookup = std::function<std::optional<std::string>(const std::string& name)>;
  /// flags: by the names of variables. env_file: its name, for errors.
  RingValues(std::map<std::string, std::string> flags, Lookup environment,
             std::map<std::string, std::string> file, std::string file_name);

  /// "" where it is nowhere; a variable that is set to nothing is not set.
  std::string text(const std::string& name) const;
  /// InvalidArgument, which says where the text is from: not a whole number in [low, high].
  absl::StatusOr<int> integer(const std::string& name, int low, int high, std::optional<int> otherwise) const;
  /// "RANK, from .env".
  std::string origin(const std::string& name) const;

 private:
  struct Value {
    std::string text;
    std::string from;
  };
  std::optional<Value> find(const std::string& name) const;

  std::map<std::string, std::string> flags_;
  Lookup environment_;
  std::map<std::string, std::string> file_;
  std::string file_name_;
};

struct Ring {
  int rank = 0;
  int world_size = 1;
  std::string master_addr;  ///< Where others reach rank 0; empty: there are none.
  int master_port = 29500;
  std::string api_host;  ///< Empty: the default of `shoal serve`.
  int api_port = 8000;
  std::string model;  ///< A folder or file, absolute.
  std::string key_file;
  std::string tls_dir;
  bool insecure = false;
};

/// Of RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, API_HOST, API_PORT, SHOAL_MODEL, SHOAL_KEY_FILE and SHOAL_TLS_DIR.
/// InvalidArgument names what lacks or does not fit, and where it is from. is_loopback: whether only this machine reaches
/// a host.
absl::StatusOr<Ring> ReadRing(const RingValues& values, bool insecure,
                              const std::function<bool(const std::string& host)>& is_loopback);

/// The command that this machine runs: `serve` on rank 0, `worker` on the others. `more`: further flags of it.
std::vector<std::string> RingCommand(const Ring& ring, const std::vector<std::string>& more);

}  // namespace shoal
