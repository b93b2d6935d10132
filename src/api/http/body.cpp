#include "api/http/body.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>

#include "api/http/text.h"
#include "base/check.h"

namespace shoal {
namespace {

constexpr int kWindowBits = 15;
constexpr int kAnyHeader = 32;  ///< zlib: reads gzip's header or its own, whichever is there.

enum class Inflated : uint8_t { kWhole, kTooLong, kBroken };

/// Decompresses all of `packed`; several gzip members are one text.
Inflated Inflate(std::string_view packed, int window_bits, int64_t bytes_max, std::string& out) {
  z_stream stream{};
  SHOAL_CHECK(inflateInit2(&stream, window_bits) == Z_OK);
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, &inflateEnd);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  std::array<char, 64 << 10> buffer;
  out.clear();
  while (true) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream.avail_out = buffer.size();
    const int result = inflate(&stream, Z_NO_FLUSH);
    out.append(buffer.data(), buffer.size() - stream.avail_out);
    if (static_cast<int64_t>(out.size()) > bytes_max) return Inflated::kTooLong;
    if (result == Z_STREAM_END && stream.avail_in == 0) return Inflated::kWhole;
    if (result == Z_STREAM_END) {
      if (inflateReset(&stream) != Z_OK) return Inflated::kBroken;
    } else if (result != Z_OK || (stream.avail_in == 0 && stream.avail_out > 0)) {
      return Inflated::kBroken;
    }
  }
}

Inflated InflateAs(const std::string& encoding, std::string_view packed, int64_t bytes_max,
                   std::string& out) {
  const Inflated result = Inflate(packed, kWindowBits + kAnyHeader, bytes_max, out);
  // Some clients leave out zlib's header, which "deflate" has.
  if (result != Inflated::kBroken || encoding != "deflate") return result;
  return Inflate(packed, -kWindowBits, bytes_max, out);
}

}  // namespace

std::optional<HttpRefusal> CheckBodyType(const HttpRequest& request) {
  if (request.body.empty()) return std::nullopt;
  const std::string_view given = request.header("content-type");
  std::string type = LowerCase(given.substr(0, given.find(';')));
  while (type.ends_with(' ')) type.pop_back();
  if (type.empty() || type == "application/json") return std::nullopt;
  if (type.starts_with("application/") && type.ends_with("+json")) return std::nullopt;
  const bool page = !request.header("origin").empty();
  if (type == "application/x-www-form-urlencoded" && !page) return std::nullopt;
  return HttpRefusal{415,
                     fmt::format("expected a body of Content-Type application/json, got '{}'",
                                 IsPrintable(type) ? type : "?"),
                     {{"Accept", "application/json"}}};
}

std::optional<HttpRefusal> DecodeBody(HttpRequest& request, int64_t bytes_max) {
  std::string encoding = LowerCase(request.header("content-encoding"));
  if (encoding == "x-gzip") encoding = "gzip";
  if (encoding.empty() || encoding == "identity" || request.body.empty()) return std::nullopt;
  if (encoding != "gzip" && encoding != "deflate") {
    return HttpRefusal{
        415,
        fmt::format("expected a body that is plain or compressed with gzip or deflate, got '{}'",
                    IsPrintable(encoding) ? encoding : "?"),
        {{"Accept-Encoding", "gzip, deflate"}}};
  }
  std::string plain;
  switch (InflateAs(encoding, request.body, bytes_max, plain)) {
    case Inflated::kWhole:
      request.body = std::move(plain);
      return std::nullopt;
    case Inflated::kTooLong:
      return HttpRefusal{
          413,
          fmt::format("the decompressed body is larger than the {} bytes that this server takes", bytes_max),
          {}};
    case Inflated::kBroken:
      break;
  }
  return HttpRefusal{400, fmt::format("the body does not decompress as '{}'", encoding), {}};
}

}  // namespace shoal
