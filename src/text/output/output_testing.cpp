#include "text/output/output_testing.h"

#include <algorithm>

#include "base/random.h"

namespace shoal::test {
namespace {

using Kind = OutputEvent::Kind;

bool BeginsCharacter(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

/// Random places between characters; with `density` 1, all of them.
std::vector<size_t> Cuts(std::string_view text, double density, RandomStream& random) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i < text.size(); ++i) {
    if (BeginsCharacter(text[i]) && random.uniform() < density) cuts.push_back(i);
  }
  return cuts;
}

void AppendMerged(OutputEvents& all, const OutputEvents& more) {
  for (const OutputEvent& event : more) AddEvent(all, event);
}

void ExpectSameForAnyCut(const Reading& reading, std::string_view text, int tries, RandomStream& random) {
  const OutputEvents whole = EventsOf(reading, text);
  for (int i = 0; i < tries; ++i) {
    const auto cuts = Cuts(text, i == 0 ? 1.0 : random.uniform(), random);
    ASSERT_EQ(EventsOf(reading, text, cuts), whole) << "cut into " << cuts.size() + 1 << " pieces: " << text;
  }
}

std::string AllText(const OutputEvents& events) {
  std::string all;
  for (const OutputEvent& event : events) all += event.text + event.name + event.call_id;
  return all;
}

bool IsSilent(const Reading& reading, std::string_view text, size_t at) {
  return std::ranges::any_of(reading.silent, [&](const std::string& part) {
    for (size_t begin = text.find(part); begin != std::string_view::npos;
         begin = text.find(part, begin + 1)) {
      if (begin <= at && at <= begin + part.size()) return true;
    }
    return false;
  });
}

}  // namespace

OutputEvents EventsOf(const Reading& reading, std::string_view text, const std::vector<size_t>& cuts) {
  DialectParser parser(reading.dialect, Options(reading));
  OutputEvents all;
  size_t begin = 0;
  std::vector<size_t> ends = cuts;
  ends.push_back(text.size());
  for (const size_t end : ends) {
    OutputEvents events;
    parser.push(text.substr(begin, end - begin), events);
    AppendMerged(all, events);
    begin = end;
  }
  OutputEvents events;
  parser.finish(events);
  AppendMerged(all, events);
  return all;
}

Answer AnswerOf(const OutputEvents& events) {
  Answer answer;
  bool open = false;
  for (const OutputEvent& event : events) {
    const int calls = static_cast<int>(answer.calls.size());
    switch (event.kind) {
      case Kind::kContent:
        answer.content += event.text;
        break;
      case Kind::kReasoning:
        answer.reasoning += event.text;
        break;
      case Kind::kCallBegin:
        EXPECT_FALSE(open);
        EXPECT_EQ(event.call, calls);
        EXPECT_NE(event.name, "");
        open = true;
        answer.calls.push_back({.name = event.name, .arguments = "", .id = event.call_id});
        break;
      case Kind::kArguments:
        EXPECT_TRUE(open);
        EXPECT_EQ(event.call, calls - 1);
        if (calls > 0) answer.calls.back().arguments += event.text;
        break;
      case Kind::kCallEnd:
        EXPECT_TRUE(open);
        EXPECT_EQ(event.call, calls - 1);
        open = false;
        break;
    }
  }
  EXPECT_FALSE(open);
  return answer;
}

void ExpectReads(const Reading& reading, std::string_view text, const Answer& answer) {
  EXPECT_EQ(Read(reading, text), answer) << text;
  RandomStream random(text.size());
  ExpectSameForAnyCut(reading, text, 40, random);
  for (size_t end = 0; end < text.size(); ++end) {
    if (!BeginsCharacter(text[end])) continue;
    AnswerOf(EventsOf(reading, text.substr(0, end)));
    ExpectSameForAnyCut(reading, text.substr(0, end), 3, random);
    if (IsSilent(reading, text, end)) continue;
    const std::string damaged = std::string(text.substr(0, end)) + "qzx7" + std::string(text.substr(end));
    const OutputEvents events = EventsOf(reading, damaged);
    AnswerOf(events);
    EXPECT_TRUE(AllText(events).contains("qzx7")) << damaged << "\nbecame " << AnswerOf(events);
    const std::string cut = damaged.substr(0, end + 4);
    EXPECT_TRUE(AllText(EventsOf(reading, cut)).contains("qzx7")) << cut;
    ExpectSameForAnyCut(reading, damaged, 2, random);
  }
}

}  // namespace shoal::test
