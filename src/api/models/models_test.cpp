// Several models behind one server: who is loaded, who gives way, and that every request gets its answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "api/answer/whole_writer.h"
#include "api/http/client.h"
#include "api/models/models_api.h"
#include "api/openai/response.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Says its name. "hold": the answer comes with release().
class FakeModel final : public LoadedModel {
 public:
  FakeModel(std::string name, std::set<std::string>& up, std::mutex& mutex)
      : name_(std::move(name)), up_(up), mutex_(mutex) {
    const std::lock_guard lock(mutex_);
    up_.insert(name_);
    const HttpHandler complete = [this](const HttpRequest& request, const auto& writer) {
      answer(request, writer);
    };
    const HttpHandler stats = [this](const HttpRequest&, const auto& writer) {
      writer->send({.body = DumpJson({{"cache_of", name_}})});
    };
    routes_ = {{"POST", "/v1/completions", complete}, {"GET", "/cache/stats", stats}};
  }
  ~FakeModel() override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(held_.empty()) << name_ << " was unloaded under a request";
    up_.erase(name_);
  }

  void release() {
    std::vector<std::shared_ptr<ResponseWriter>> held;
    {
      const std::lock_guard lock(mutex_);
      held.swap(held_);
    }
    for (const auto& writer : held) writer->send({.body = DumpJson({{"model", name_}})});
    requests_ -= static_cast<int>(held.size());
  }

  const std::vector<HttpRoute>& routes() const override { return routes_; }
  int requests() const override { return requests_; }
  Metrics& metrics() override { return metrics_; }
  absl::Status engine() const override { return absl::OkStatus(); }
  Json openai_entry() const override { return {{"id", name_}}; }
  Json ollama_entry() const override { return {{"name", name_ + ":latest"}}; }
  std::optional<Json> ollama_running_entry() const override { return ollama_entry(); }

 private:
  void answer(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
    if (request.body.find("hold") == std::string::npos) {
      return writer->send({.body = DumpJson({{"model", name_}})});
    }
    ++requests_;
    const std::lock_guard lock(mutex_);
    held_.push_back(writer);
  }

  const std::string name_;
  std::set<std::string>& up_;
  std::mutex& mutex_;
  std::vector<HttpRoute> routes_;
  std::vector<std::shared_ptr<ResponseWriter>> held_;
  std::atomic<int> requests_ = 0;
  Metrics metrics_;
};

class ModelsTest : public ::testing::Test {
 protected:
  ~ModelsTest() override {
    if (shelf_ != nullptr) shelf_->stop();
    for (size_t i = 0; shelf_ != nullptr && i < shelf_->size(); ++i) release(i);
    if (http_ != nullptr) http_->stop(std::chrono::seconds(1));
  }

  /// Models a, b, c, ..., of which `room` fit at once.
  void start(std::vector<ShelfEntry> entries, size_t room, ModelShelf::Options options = {},
             std::optional<size_t> default_model = std::nullopt) {
    room_ = room;
    options.models = std::move(entries);
    options.load = [this](size_t index, const std::stop_token&) { return load(index); };
    shelf_ = std::make_unique<ModelShelf>(std::move(options));
    api_ = std::make_unique<ModelsApi>(
        ModelsApiOptions{.model_routes = {{"POST", "/v1/completions", {}}, {"GET", "/cache/stats", {}}},
                         .default_model = default_model,
                         .metrics = &metrics_},
        *shelf_);
    http_ = *HttpServer::Start({}, api_->routes());
    shelf_->start();
  }
  absl::StatusOr<std::shared_ptr<LoadedModel>> load(size_t index) {
    const std::string& name = shelf_->entry(index).name;
    {
      const std::lock_guard lock(mutex_);
      loads_.push_back(name);
      if (up_.size() >= room_) return ResourceExhausted("no room for '{}'", name);
      if (broken_.contains(name)) return InvalidArgument("'{}' has no tensors", name);
    }
    return std::make_shared<FakeModel>(name, up_, mutex_);
  }
  HttpReply post(const std::string& body, const std::string& path = "/v1/completions") const {
    return *HttpClient("127.0.0.1", http_->port()).post(path, body, Deadline::after_ms(20000));
  }
  Json get(const std::string& path) const {
    return *ParseJson(HttpClient("127.0.0.1", http_->port()).get(path, Deadline::after_ms(20000))->body);
  }
  std::string model_of(const std::string& body) const {
    const HttpReply reply = post(body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return (*ParseJson(reply.body)).value("model", "");
  }
  void release(size_t index) const {
    if (const auto model = shelf_->loaded(index)) static_cast<FakeModel&>(*model).release();
  }
  std::set<std::string> up() {
    const std::lock_guard lock(mutex_);
    return up_;
  }
  /// Waits until `holds`, as long as a slow machine may need.
  template <typename Holds>
  static bool Eventually(Holds holds) {
    for (int i = 0; i < 2000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::mutex mutex_;
  std::set<std::string> up_, broken_;
  std::vector<std::string> loads_;
  size_t room_ = 1;
  Metrics metrics_;
  std::unique_ptr<ModelShelf> shelf_;
  std::unique_ptr<ModelsApi> api_;
  std::unique_ptr<HttpServer> http_;
};

TEST_F(ModelsTest, ARequestLoadsTheModelThatItNames) {
  start({{.name = "a"}, {.name = "b", .aliases = {"bee"}}}, 2);
  EXPECT_EQ(get("/v1/models")["data"][0]["status"]["value"], "unloaded");
  EXPECT_EQ(model_of(R"({"prompt": "x", "model": "a"})"), "a");
  EXPECT_EQ(model_of(R"({"model": "bee"})"), "b");
  EXPECT_EQ(model_of(R"({"model": "b:latest"})"), "b");
  EXPECT_THAT(loads_, ElementsAre("a", "b"));
  EXPECT_EQ(get("/v1/models")["data"][0]["status"]["value"], "loaded");
  EXPECT_EQ(get("/v1/models/bee")["id"], "b");
  EXPECT_EQ(get("/cache/stats?model=b")["cache_of"], "b");
  EXPECT_EQ(get("/api/ps")["models"].size(), 2u);
}

TEST_F(ModelsTest, UnknownAndMissingNamesAreErrorsThatNameTheModels) {
  start({{.name = "a"}, {.name = "b"}}, 2);
  EXPECT_EQ(post(R"({"model": "c"})").status, 404);
  EXPECT_THAT(post(R"({"model": "c"})").body, HasSubstr("'a', 'b'"));
  EXPECT_THAT(post("{}").body, HasSubstr("'model' is missing"));
  EXPECT_THAT(post("not json").body, HasSubstr("invalid_json"));
  EXPECT_THAT(post("[]").body, HasSubstr("must be a JSON object"));
  for (const char* body : {R"({"model": 3})", R"({"model": null})", R"({"model": ["a"]})"}) {
    EXPECT_THAT(post(body).body, HasSubstr("'model' must be a string")) << body;
    EXPECT_EQ(post(body).status, 400) << body;
  }
  EXPECT_THAT(get("/cache/stats")["error"]["code"], "model_not_loaded");
  EXPECT_TRUE(loads_.empty());
}

TEST_F(ModelsTest, TheBodysNameGoesBeforeThatOfTheQuery) {
  start({{.name = "a"}, {.name = "b"}}, 2);
  EXPECT_EQ(*ParseJson(post(R"({"model": "a"})", "/v1/completions?model=b").body), (Json{{"model", "a"}}));
  EXPECT_EQ(*ParseJson(post("{}", "/v1/completions?model=b").body), (Json{{"model", "b"}}));
  // "name" is the older word of Ollama's API alone.
  EXPECT_EQ(post(R"({"name": "a"})").status, 400);
}

TEST_F(ModelsTest, NamesMayHaveAnySigns) {
  const std::string name = "org/a&b=c+d%20e v1//f";
  start({{.name = "a"}, {.name = name}}, 2);
  EXPECT_EQ(get("/v1/models/org%2Fa%26b%3Dc%2Bd%2520e%20v1%2F%2Ff")["id"], name);
  EXPECT_EQ(model_of(Json{{"model", name}}.dump()), name);
  EXPECT_EQ(get("/cache/stats?model=org%2Fa%26b%3Dc%2Bd%2520e%20v1%2F%2Ff")["cache_of"], name);
}

TEST_F(ModelsTest, ARequestWithoutANameMeansTheDefault) {
  start({{.name = "a"}, {.name = "b"}}, 2, {}, 1);
  EXPECT_EQ(model_of("{}"), "b");
}

TEST_F(ModelsTest, TheOneThatWasAskedForLongestAgoGivesWay) {
  start({{.name = "a"}, {.name = "b"}, {.name = "c"}}, 2);
  model_of(R"({"model": "a"})");
  model_of(R"({"model": "b"})");
  model_of(R"({"model": "a"})");
  EXPECT_EQ(model_of(R"({"model": "c"})"), "c");
  EXPECT_EQ(up(), (std::set<std::string>{"a", "c"}));
}

TEST_F(ModelsTest, ABusyModelIsWaitedForAndNothingOfItIsLost) {
  start({{.name = "a"}, {.name = "b"}}, 1, {.stays_at_least = Duration::zero()});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  auto other = std::async(std::launch::async, [&] { return model_of(R"({"model": "b"})"); });
  ASSERT_TRUE(Eventually([&] { return shelf_->status(0).state == ShelfState::kLeaving; }));
  // What is asked of it from now on waits until it is loaded again.
  auto later = std::async(std::launch::async, [&] { return model_of(R"({"model": "a"})"); });
  ASSERT_TRUE(Eventually([&] { return shelf_->status(0).waiting == 1; }));
  EXPECT_EQ(up(), std::set<std::string>{"a"});
  release(0);
  EXPECT_EQ(held.get(), "a");
  EXPECT_EQ(other.get(), "b");
  EXPECT_EQ(later.get(), "a");
}

TEST_F(ModelsTest, OneThatWaitsForRoomGetsItWhenAModelIsUnloadedByName) {
  start({{.name = "a"}, {.name = "b"}}, 1, {.stays_at_least = std::chrono::hours(1)});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  auto other = std::async(std::launch::async, [&] { return model_of(R"({"model": "b"})"); });
  ASSERT_TRUE(Eventually([&] { return !shelf_->status(1).last_load.ok(); }));
  const Json status = get("/v1/models/b")["status"];
  EXPECT_FALSE(status.contains("failed")) << status;
  EXPECT_THAT(status["error"].get<std::string>(), HasSubstr("no room"));
  EXPECT_EQ(post(R"({"model": "a"})", "/models/unload").status, 200);
  release(0);
  EXPECT_EQ(held.get(), "a");
  EXPECT_EQ(other.get(), "b");
}

TEST_F(ModelsTest, ARequestWhoseClientIsGoneLoadsNoModel) {
  start({{.name = "a"}, {.name = "b"}}, 1, {.stays_at_least = std::chrono::hours(1)});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  const auto reply = HttpClient("127.0.0.1", http_->port())
                         .post("/v1/completions", R"({"model": "b"})", Deadline::after_ms(300));
  EXPECT_FALSE(reply.ok());
  EXPECT_TRUE(Eventually([&] { return shelf_->status(1).waiting == 0; }));
  release(0);
  EXPECT_EQ(held.get(), "a");
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
  EXPECT_EQ(up(), std::set<std::string>{"a"});
}

TEST_F(ModelsTest, APinnedModelNeverGivesWay) {
  start({{.name = "a", .at_start = true, .pinned = true}, {.name = "b"}}, 1);
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
  const HttpReply refused = post(R"({"model": "b"})");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("no room for 'b'"));
  EXPECT_EQ(get("/v1/models/b")["status"]["failed"], true);
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
}

TEST_F(ModelsTest, NobodyGivesWayToAModelThatNobodyAskedFor) {
  start({{.name = "a", .at_start = true}, {.name = "b", .at_start = true}}, 1);
  ASSERT_TRUE(Eventually([&] { return !shelf_->status(1).last_load.ok(); }));
  EXPECT_EQ(up(), std::set<std::string>{"a"});
}

TEST_F(ModelsTest, AModelThatCantBeLoadedIsAnErrorOfItsRequestsAlone) {
  broken_ = {"b"};
  start({{.name = "a"}, {.name = "b"}}, 2);
  const HttpReply refused = post(R"({"model": "b"})");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("has no tensors"));
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
}

TEST_F(ModelsTest, ARequestWaitsNoLongerThanItMay) {
  start({{.name = "a"}, {.name = "b"}}, 1,
        {.waits_at_most = std::chrono::milliseconds(100), .stays_at_least = std::chrono::hours(1)});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  const HttpReply late = post(R"({"model": "b"})");
  EXPECT_EQ(late.status, 503);
  EXPECT_THAT(late.body, HasSubstr("was not ready"));
  // Nobody waits for its room any more: it takes requests as before.
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
  release(0);
  EXPECT_EQ(held.get(), "a");
}

TEST_F(ModelsTest, AFullQueueRefuses) {
  start({{.name = "a"}, {.name = "b"}}, 1, {.waiting_max = 1, .stays_at_least = std::chrono::hours(1)});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  auto waits = std::async(std::launch::async, [&] { return post(R"({"model": "b"})").status; });
  ASSERT_TRUE(Eventually([&] { return shelf_->status(1).waiting == 1; }));
  EXPECT_EQ(post(R"({"model": "b"})").status, 429);
  release(0);
  EXPECT_EQ(held.get(), "a");
  EXPECT_EQ(waits.get(), 200);
}

TEST_F(ModelsTest, ModelsAreLoadedAndUnloadedByName) {
  start({{.name = "a"}, {.name = "b"}}, 2);
  EXPECT_EQ(post(R"({"model": "a"})", "/models/unload").status, 400);
  EXPECT_EQ(post(R"({"model": "a"})", "/models/load").status, 200);
  EXPECT_EQ(up(), std::set<std::string>{"a"});
  EXPECT_EQ(post(R"({"model": "a"})", "/models/unload").status, 200);
  ASSERT_TRUE(Eventually([&] { return up().empty(); }));
  EXPECT_EQ(model_of(R"({"model": "a"})"), "a");
}

TEST_F(ModelsTest, AModelThatNobodyAsksForIsUnloaded) {
  start({{.name = "a"}, {.name = "b", .pinned = true}}, 2, {.idle_max = std::chrono::milliseconds(50)});
  model_of(R"({"model": "b"})");
  model_of(R"({"model": "a"})");
  ASSERT_TRUE(Eventually([&] { return up() == std::set<std::string>{"b"}; }));
}

TEST_F(ModelsTest, WhatWaitsAtTheEndIsToldSo) {
  start({{.name = "a"}, {.name = "b"}}, 1, {.stays_at_least = std::chrono::hours(1)});
  auto held = std::async(std::launch::async, [&] { return model_of(R"({"model": "a", "hold": 1})"); });
  ASSERT_TRUE(Eventually([&] { return up().contains("a") && shelf_->loaded(0)->requests() == 1; }));
  auto waits = std::async(std::launch::async, [&] { return post(R"({"model": "b"})"); });
  ASSERT_TRUE(Eventually([&] { return shelf_->status(1).waiting == 1; }));
  shelf_->stop();
  const HttpReply reply = waits.get();
  EXPECT_EQ(reply.status, 503);
  EXPECT_THAT(reply.body, HasSubstr("shutting down"));
  release(0);
  EXPECT_EQ(held.get(), "a");
}

TEST_F(ModelsTest, ManyRequestsForMoreModelsThanFitAllGetTheirAnswers) {
  start({{.name = "a"}, {.name = "b"}, {.name = "c"}}, 2, {.stays_at_least = Duration::zero()});
  std::vector<std::future<bool>> all;
  for (int i = 0; i < 24; ++i) {
    const std::string name(1, static_cast<char>('a' + i % 3));
    all.push_back(std::async(std::launch::async, [this, name] {
      return model_of(fmt::format(R"({{"model": "{}"}})", name)) == name;
    }));
  }
  for (auto& one : all) EXPECT_TRUE(one.get());
}

TEST_F(ModelsTest, MetricsCarryTheirModel) {
  start({{.name = "a"}, {.name = "b"}}, 2);
  model_of(R"({"model": "a"})");
  model_of(R"({"model": "b"})");
  const std::string text =
      HttpClient("127.0.0.1", http_->port()).get("/metrics", Deadline::after_ms(20000))->body;
  EXPECT_THAT(text, HasSubstr("shoal_steps_total{model=\"a\"} 0"));
  EXPECT_THAT(text, HasSubstr("shoal_steps_total{model=\"b\"} 0"));
  EXPECT_EQ(text.find("# TYPE shoal_steps_total"), text.rfind("# TYPE shoal_steps_total"));
}

TEST(TopLevelText, IsTheKeysOwnValueAtTheTop) {
  const auto text = [](std::string_view body) { return TopLevelText(body, {"model", "name"}); };
  EXPECT_EQ(text(R"({"model": "a"})"), "a");
  EXPECT_EQ(text(R"({"messages": [{"model": "x"}], "options": {"name": "y"}, "name": "b"})"), "b");
  EXPECT_EQ(text(R"({"model": "a", "broken)"), "a");
  EXPECT_EQ(text(R"({"model": 3, "name": "b"})"), std::nullopt);
  EXPECT_EQ(text(R"({"model": {"model": "x"}})"), std::nullopt);
  EXPECT_EQ(text(R"(["model", "a"])"), std::nullopt);
  EXPECT_EQ(text(R"("model")"), std::nullopt);
  EXPECT_EQ(text(""), std::nullopt);
  EXPECT_EQ(text(std::string(100000, '[')), std::nullopt);
}

}  // namespace
}  // namespace shoal
