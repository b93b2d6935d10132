#include "api/http/body.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "base/check.h"

namespace shoal {
namespace {

constexpr int kGzip = 15 + 16;
constexpr int kZlib = 15;
constexpr int kRaw = -15;

std::string Packed(std::string_view text, int window_bits) {
  z_stream stream{};
  SHOAL_CHECK(deflateInit2(&stream, 9, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  SHOAL_CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

HttpRequest Sent(std::string body, const std::string& encoding) {
  HttpRequest request{.method = "POST", .body = std::move(body)};
  if (!encoding.empty()) request.headers = {{"content-encoding", encoding}};
  return request;
}

int StatusOf(const std::optional<HttpRefusal>& refusal) {
  return refusal.has_value() ? refusal->status : 200;
}

TEST(HttpBody, DecompressesWhatClientsSend) {
  const std::string text(100'000, 'a');
  struct Case {
    const char* encoding;
    std::string body;
  };
  for (const Case& one :
       {Case{"gzip", Packed(text, kGzip)}, Case{"X-GZIP", Packed(text, kGzip)},
        Case{"deflate", Packed(text, kZlib)}, Case{"deflate", Packed(text, kRaw)}, Case{"identity", text},
        Case{"", text}, Case{"gzip", Packed(text.substr(1), kGzip) + Packed("a", kGzip)}}) {
    HttpRequest request = Sent(one.body, one.encoding);
    EXPECT_EQ(StatusOf(DecodeBody(request, 100'000)), 200) << one.encoding;
    EXPECT_EQ(request.body, text) << one.encoding;
  }
}

TEST(HttpBody, BoundsWhatABodyGrowsTo) {
  HttpRequest bomb = Sent(Packed(std::string(50 << 20, '\0'), kGzip), "gzip");
  ASSERT_LT(bomb.body.size(), 100'000U);
  EXPECT_EQ(StatusOf(DecodeBody(bomb, 1 << 20)), 413);
  HttpRequest exact = Sent(Packed(std::string(1 << 20, '\0'), kGzip), "gzip");
  EXPECT_EQ(StatusOf(DecodeBody(exact, 1 << 20)), 200);
}

TEST(HttpBody, DamagedBodiesAreRefusedAndUnknownEncodingsNamed) {
  const std::string whole = Packed("hello, hello, hello", kGzip);
  for (size_t length = 1; length < whole.size(); ++length) {
    HttpRequest cut = Sent(whole.substr(0, length), "gzip");
    EXPECT_EQ(StatusOf(DecodeBody(cut, 1000)), 400) << length;
  }
  HttpRequest more = Sent(whole + "x", "gzip");
  EXPECT_EQ(StatusOf(DecodeBody(more, 1000)), 400);
  for (const char* other : {"br", "zstd", "gzip, gzip", "\x01"}) {
    HttpRequest request = Sent("hello", other);
    EXPECT_EQ(StatusOf(DecodeBody(request, 1000)), 415) << other;
  }
}

TEST(HttpBody, TypesOtherThanJsonAreRefusedUnlessTheyAreNoChoice) {
  struct Case {
    const char* type;
    const char* origin;
    int status;
  };
  for (const Case& one :
       {Case{"application/json", "", 200}, Case{"Application/JSON ; charset=utf-8", "http://a", 200},
        Case{"application/vnd.api+json", "", 200}, Case{"", "", 200},
        Case{"application/x-www-form-urlencoded", "", 200},
        Case{"application/x-www-form-urlencoded", "http://a", 415}, Case{"text/plain", "", 415},
        Case{"text/plain;application/json", "", 415}, Case{"multipart/form-data", "", 415}}) {
    HttpRequest request{.method = "POST", .body = "{}"};
    if (*one.type != '\0') request.headers.emplace_back("content-type", one.type);
    if (*one.origin != '\0') request.headers.emplace_back("origin", one.origin);
    EXPECT_EQ(StatusOf(CheckBodyType(request)), one.status) << one.type << " " << one.origin;
    request.body.clear();
    EXPECT_EQ(StatusOf(CheckBodyType(request)), 200) << one.type;
  }
}

}  // namespace
}  // namespace shoal
