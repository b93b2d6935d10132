#include "api/expert_rest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/http/client.h"
#include "api/http/tcp_stream.h"
#include "api/json.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// Experts of width 2: expert e of layer l gives (e + x0, l + x1).
class FakeExperts : public ExpertService {
 public:
  Info info() const override {
    std::lock_guard lock(mutex_);
    return info_;
  }
  absl::StatusOr<int> initialize(std::span<const int32_t> ids, const std::string& path) override {
    if (path == "/secret") return PermissionDenied("'{}' is not below a --model-root", path);
    if (path == "/broken") return DataLoss("model.safetensors: truncated");
    std::lock_guard lock(mutex_);
    info_ = {.initialized = true,
             .model_path = path,
             .expert_ids = {ids.begin(), ids.end()},
             .layers = 3,
             .width = 2,
             .memory_bytes = 77};
    return static_cast<int>(ids.size());
  }
  absl::StatusOr<std::vector<std::vector<float>>> compute(int32_t layer,
                                                          std::span<const ExpertRow> rows) override {
    if (layer == 2) return InvalidArgument("layer 2 has no experts");
    std::lock_guard lock(mutex_);
    std::vector<std::vector<float>> out;
    for (const ExpertRow& row : rows) {
      out.push_back({static_cast<float>(row.expert) + row.x[0], static_cast<float>(layer) + row.x[1]});
      seen_.push_back({layer, row.expert});
    }
    return out;
  }
  std::vector<std::pair<int32_t, int32_t>> seen() const {
    std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  mutable std::mutex mutex_;
  Info info_;
  std::vector<std::pair<int32_t, int32_t>> seen_;
};

class ExpertRestTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::Start({.error_body = ExpertRestApi::ErrorBodyOf}, api_.routes());
    ASSERT_TRUE(server.ok());
    server_ = *std::move(server);
  }
  HttpReply post(const std::string& path, const std::string& body) {
    const auto reply = HttpClient("127.0.0.1", server_->port()).post(path, body, Deadline::after_ms(20'000));
    EXPECT_TRUE(reply.ok());
    return *reply;
  }
  Json get(const std::string& path) {
    return *ParseJson(HttpClient("127.0.0.1", server_->port()).get(path, Deadline::after_ms(20'000))->body);
  }
  void initialize() {
    const HttpReply reply = post("/initialize", R"({"expert_ids": [5, 0, 3], "model_path": "/m"})");
    ASSERT_EQ(reply.body, R"({"status":"success","message":"Loaded 3 experts"})");
  }
  void expect_error(const std::string& path, const std::string& body, const std::string& message) {
    const HttpReply reply = post(path, body);
    EXPECT_EQ(reply.status, 400) << body;
    const auto json = ParseJson(reply.body);
    ASSERT_TRUE(json.has_value()) << reply.body;
    EXPECT_EQ((*json)["status"], "error");
    EXPECT_THAT((*json)["message"].get<std::string>(), HasSubstr(message)) << body;
  }
  static std::string compute_body(const std::string& requests) {
    return fmt::format(R"({{"requests": [{}]}})", requests);
  }

  FakeExperts experts_;
  ExpertRestApi api_{experts_};
  std::unique_ptr<HttpServer> server_;
};

constexpr const char* kIndices = R"("batch_idx": 1, "seq_idx": 2, "k_idx": 3, "weight": 0.25)";

TEST_F(ExpertRestTest, ComputesEachRowAndPassesItsLabelsThrough) {
  initialize();
  const HttpReply reply =
      post("/compute_experts",
           compute_body(fmt::format(R"({{"expert_id": 5, "token_embedding": [0.1, 1], {0}, "layer_idx": 1}},
                                  {{"expert_id": 0, "token_embedding": [1e-7, -2], {0}}},
                                  {{"expert_id": 3, "token_embedding": [0, 0], {0}}},
                                  {{"expert_id": 0, "token_embedding": [1, 1], {0}}})",
                                    kIndices)));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const auto json = ParseJson(reply.body);
  ASSERT_TRUE(json.has_value()) << reply.body;
  EXPECT_EQ((*json)["status"], "success");
  EXPECT_EQ((*json)["num_requests"], 4);
  EXPECT_GE((*json)["compute_time"].get<double>(), 0.0);
  const Json& first = (*json)["results"][0];
  EXPECT_EQ(first["expert_id"], 5);
  EXPECT_EQ(first["expert_output"][0].get<float>(), 5 + 0.1f);
  EXPECT_EQ(first["expert_output"][1].get<float>(), 2.0f);
  EXPECT_EQ(first["batch_idx"], 1);
  EXPECT_EQ(first["seq_idx"], 2);
  EXPECT_EQ(first["k_idx"], 3);
  EXPECT_EQ(first["weight"], 0.25);
  EXPECT_EQ((*json)["results"][1]["expert_output"][0].get<float>(), 1e-7f);  // The layer is 0 unless said.
  EXPECT_EQ((*json)["results"][3]["expert_output"][0].get<float>(), 1.0f);
  const std::vector<std::pair<int32_t, int32_t>> grouped = {{0, 0}, {0, 0}, {0, 3}, {1, 5}};
  EXPECT_EQ(experts_.seen(), grouped);
}

TEST_F(ExpertRestTest, SaysWhatIsWrong) {
  expect_error("/compute_experts", compute_body(""), "Worker not initialized");
  expect_error("/initialize", R"({"expert_ids": [], "model_path": "/m"})", "non-empty");
  expect_error("/initialize", R"({"expert_ids": [1]})", "'model_path' is missing");
  expect_error("/initialize", R"({"model_path": "/m"})", "'expert_ids'");
  expect_error("/initialize", R"({"expert_ids": [1, -1], "model_path": "/m"})", "expert_ids[1]");
  expect_error("/initialize", R"({"expert_ids": [1, 1], "model_path": "/m"})", "expert 1 twice");
  expect_error("/initialize", R"({"expert_ids": [1], "model_path": "/m", "x": 1})", "'x'");
  expect_error("/initialize", R"({"expert_ids": [1], "model_path": "/secret"})", "--model-root");
  expect_error("/initialize", R"({"expert_ids": [1], "model_path": "/broken"})", "truncated");
  expect_error("/initialize", "{", "not valid JSON");
  initialize();
  const std::string labels = kIndices;
  auto one = [&](const std::string& fields) { return compute_body("{" + fields + ", " + labels + "}"); };
  expect_error("/compute_experts", one(R"("expert_id": 4, "token_embedding": [1, 2])"),
               "Expert 4 not assigned to this worker");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, 2, 3])"),
               "has 3 numbers, but the model's width is 2");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, NaN])"), "not valid JSON");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, null])"),
               "token_embedding[1]");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, "NaN"])"), "finite");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, 1e39])"), "finite");
  expect_error("/compute_experts", one(R"("expert_id": 3)"), "token_embedding' is missing");
  expect_error("/compute_experts", one(R"("token_embedding": [1, 2])"), "expert_id' is missing");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, 2], "layer_idx": 3)"),
               "layers 0 to 2");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, 2], "layer_idx": 2)"),
               "no experts");
  expect_error("/compute_experts", one(R"("expert_id": 3, "token_embedding": [1, 2], "surprise": 2)"),
               "surprise");
  expect_error(
      "/compute_experts",
      compute_body(
          R"({"expert_id": 3, "token_embedding": [1, 2], "batch_idx": 0, "seq_idx": 0, "k_idx": 0})"),
      "weight");
  expect_error("/compute_experts", compute_body("5"), "must be an object");
  expect_error("/compute_experts", "{}", "'requests' is missing");
}

TEST_F(ExpertRestTest, CountsWhatItDid) {
  EXPECT_EQ(get("/status")["initialized"], false);
  initialize();
  post("/compute_experts",
       compute_body(fmt::format(R"({{"expert_id": 3, "token_embedding": [1, 2], {}}})", kIndices)));
  post("/compute_experts", "{}");
  const Json status = get("/status");
  EXPECT_EQ(status["initialized"], true);
  EXPECT_EQ(status["num_experts"], 3);
  EXPECT_EQ(status["expert_ids"], Json::array({0, 3, 5}));
  EXPECT_EQ(status["memory_bytes"], 77);
  EXPECT_EQ(status["total_calls"], 1);
  EXPECT_EQ(status["total_requests"], 1);
  EXPECT_EQ(status["errors"], 1);
  EXPECT_EQ(get("/health")["status"], "healthy");
}

TEST_F(ExpertRestTest, WithAKeyCallersMustProveTheWholeRequest) {
  std::vector<std::string> contexts;
  const auto authorize = [&](std::string_view token, std::string_view context) {
    contexts.emplace_back(context);
    return token == "good" ? absl::OkStatus() : Unauthenticated("'{}' is no proof of the key", token);
  };
  ExpertRestApi locked(experts_, authorize, [] { return std::string("c1"); });
  auto server = HttpServer::Start({.error_body = ExpertRestApi::ErrorBodyOf}, locked.routes());
  ASSERT_TRUE(server.ok());
  const auto answer = [&](const std::string& authorization, const std::string& head,
                          const std::string& body) {
    auto stream = TcpStream::Connect("127.0.0.1", (*server)->port(), Deadline::after_ms(20'000));
    EXPECT_TRUE(
        stream
            ->send_all(
                fmt::format("{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}Content-Length: {}\r\n\r\n{}",
                            head, authorization, body.size(), body),
                Deadline::after_ms(20'000))
            .ok());
    std::string all;
    for (auto piece = stream->receive(Deadline::after_ms(20'000)); piece.ok() && !piece->empty();
         piece = stream->receive(Deadline::after_ms(20'000))) {
      all += *piece;
    }
    return all;
  };
  const std::string body = R"({"expert_ids": [5], "model_path": "/m"})";
  for (const char* wrong :
       {"", "Authorization: Bearer bad\r\n", "Authorization: Basic good\r\n", "Authorization: good\r\n"}) {
    for (const char* head : {"POST /initialize", "POST /compute_experts", "GET /status"}) {
      const std::string refused = answer(wrong, head, body);
      EXPECT_THAT(refused, AllOf(HasSubstr("401 Unauthorized"), HasSubstr("WWW-Authenticate: Bearer")))
          << wrong << head;
      EXPECT_THAT(refused, HasSubstr("no proof of the key"));
    }
  }
  EXPECT_FALSE(experts_.info().initialized);
  EXPECT_THAT(answer("Authorization: bearer good\r\n", "POST /initialize", body), HasSubstr("200 OK"));
  EXPECT_EQ(contexts.back(), "POST /initialize\n" + body);
  EXPECT_THAT(answer("Authorization: Bearer good\r\n", "GET /status?x=1", ""), HasSubstr("200 OK"));
  EXPECT_EQ(contexts.back(), "GET /status\n");
  EXPECT_THAT(answer("", "GET /health", ""), HasSubstr("200 OK"));
  for (const char* line : {"Authorization: Bearer good\r\n", ""})
    EXPECT_THAT(answer(line, "GET /status", ""), HasSubstr("Shoal-Challenge: c1")) << line;
}

TEST_F(ExpertRestTest, ErrorsOfTheServerHaveTheSameShape) {
  const HttpReply reply = post("/nowhere", "{}");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ((*ParseJson(reply.body))["status"], "error");
}

}  // namespace
}  // namespace shoal
