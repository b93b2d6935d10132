// The bodies of requests: their types, and their compression. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "api/http/server.h"

namespace shoal {

/// An answer in place of a handler's.
struct HttpRefusal {
  int status = 400;
  std::string message;
  HttpHeaders headers;
};

/// Refuses (415) bodies that say that they are not JSON. What says nothing, or only that it is a form, passes: so do
/// programs that never set a type (curl -d). No web page can send these without its origin, which is asked for before.
std::optional<HttpRefusal> CheckBodyType(const HttpRequest& request);

/// Replaces a body that is compressed as Content-Encoding says (gzip, deflate) by the plain one, of at most `bytes_max`
/// bytes: else 413. 415 for other encodings, 400 where it does not decompress.
std::optional<HttpRefusal> DecodeBody(HttpRequest& request, int64_t bytes_max);

}  // namespace shoal
