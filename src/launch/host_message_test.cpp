#include "launch/host_message.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

HostOrder Order() {
  HostOrder order{
      .verb = HostVerb::kStart, .workdir = "~/it's $(here)", .timeout_ms = 1234, .api = "127.0.0.1:8000"};
  order.files = {{.name = "cluster.key", .content = std::string("\0\xff key\n", 7), .secret = true}};
  order.processes = {{.id = "mini2",
                      .rank = 1,
                      .args = {"worker", "--name", "a b", "\"'"},
                      .model_roots = {"~/models"},
                      .env = {{"A", "1 2"}},
                      .probe = "127.0.0.1:50051",
                      .fingerprint = "ab"}};
  return order;
}

TEST(HostMessage, AnOrderIsOneLineAndIsReadAsItWasWritten) {
  const std::string line = FormatOrder(Order());
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto order = ParseOrder(line);
  ASSERT_TRUE(order.ok()) << ToString(order.status());
  EXPECT_EQ(FormatOrder(*order), line);
  EXPECT_EQ(order->files[0].content, Order().files[0].content);
  EXPECT_TRUE(order->files[0].secret);
  EXPECT_THAT(order->processes[0].args, ElementsAre("worker", "--name", "a b", "\"'"));
  EXPECT_EQ(order->processes[0].env.at("A"), "1 2");
}

TEST(HostMessage, AnEventIsReadAsItWasWritten) {
  HostEvent event{.kind = HostEvent::Kind::kReply};
  event.reply.processes = {{.id = "mini2",
                            .state = HostProcessState::kDied,
                            .pid = 7,
                            .note = "n",
                            .log_tail = {"x", "y"},
                            .log_end = 5}};
  event.reply.measurement = {.first_token_ms = 1.5, .total_ms = 20, .tokens = 3, .answer = "Paris"};
  event.reply.status = FailedPrecondition("no \"room\"\nleft");
  const std::string line = FormatEvent(event);
  ASSERT_TRUE(line.starts_with(kEventMark));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const auto again = ParseEvent(std::string_view(line).substr(kEventMark.size()));
  ASSERT_TRUE(again.ok()) << ToString(again.status());
  EXPECT_EQ(again->reply.status, event.reply.status);
  EXPECT_EQ(again->reply.processes[0].state, HostProcessState::kDied);
  EXPECT_THAT(again->reply.processes[0].log_tail, ElementsAre("x", "y"));
  EXPECT_EQ(again->reply.processes[0].log_end, 5);
  EXPECT_EQ(again->reply.measurement->answer, "Paris");
}

TEST(HostMessage, ALogLineOfAnyBytesCanBeSent) {
  const std::string line = FormatEvent({.kind = HostEvent::Kind::kLog, .id = "a", .text = "\xff\xfe broken"});
  const auto event = ParseEvent(std::string_view(line).substr(kEventMark.size()));
  ASSERT_TRUE(event.ok()) << ToString(event.status());
  EXPECT_THAT(event->text, HasSubstr("broken"));
}

std::string ErrorOf(std::string_view part, std::string_view replacement) {
  std::string line = FormatOrder(Order());
  const size_t at = line.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  return ToString(ParseOrder(line.replace(at, part.size(), replacement)).status());
}

TEST(HostMessage, NamesOfFilesStayInTheirFolder) {
  for (const char* name : {"../x", "a/b", "", ".hidden", "a b"}) {
    EXPECT_THAT(ErrorOf("cluster.key", name), HasSubstr("INVALID_ARGUMENT: order.files[0].name")) << name;
    EXPECT_THAT(ErrorOf("\"mini2\"", fmt::format("\"{}\"", name)), HasSubstr("order.processes[0].id"))
        << name;
  }
}

TEST(HostMessage, WhatDoesNotFitIsNamed) {
  EXPECT_THAT(ErrorOf("\"protocol\":1", "\"protocol\":2"), HasSubstr("shoal up"));
  EXPECT_THAT(ErrorOf("\"start\"", "\"stroll\""), HasSubstr("order.verb"));
  EXPECT_THAT(ErrorOf("1234", "-1"), HasSubstr("order.timeout_ms"));
  EXPECT_THAT(ErrorOf("1234", "18446744073709551615"), HasSubstr("order.timeout_ms"));
  EXPECT_THAT(ErrorOf("\"A\":", "\"A=B\":"), HasSubstr("order.processes[0].env"));
  EXPECT_THAT(ErrorOf("\"content\":\"", "\"content\":\"0"), HasSubstr("order.files[0].content"));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseOrder("[]").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseEvent(R"({"kind": "reply"})").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseEvent(R"({"kind": "log", "reply": {}})").status()));
}

}  // namespace
}  // namespace shoal
