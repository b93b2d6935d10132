#include "text/output/harmony.h"

#include <algorithm>

#include "text/output/json_text.h"

namespace shoal {
namespace {

constexpr size_t kHeaderMax = 1024;
constexpr std::string_view kChannel = "<|channel|>";

/// The word after the last `key` in `header`, or "".
std::string WordAfter(std::string_view header, std::string_view key) {
  const size_t at = header.rfind(key);
  if (at == std::string_view::npos) return "";
  std::string_view word = header.substr(at + key.size());
  while (!word.empty() && IsSpace(word.front())) word.remove_prefix(1);
  return std::string(word.substr(0, word.find_first_of(" \n\t<")));
}

/// `text` without `prefix`, if that is there; "" where it ends within it.
std::string_view After(std::string_view text, std::string_view prefix) {
  if (prefix.starts_with(text)) return "";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

/// Whether `header` is the beginning of one that names but the role and the channel: it says nothing.
bool SaysNothing(std::string_view header) {
  constexpr std::string_view kNames[] = {"analysis", "commentary", "final"};
  const std::string_view channel = After(After(header, "assistant"), kChannel);
  return std::ranges::any_of(kNames, [&](std::string_view name) { return name.starts_with(channel); });
}

}  // namespace

const CallWriting& HarmonyWriting() {
  static const auto& writing = *new CallWriting{.opener = "<|channel|>commentary to=functions.",
                                                .before_name = {},
                                                .after_name = {" <|constrain|>json<|message|>"},
                                                .single = true};
  return writing;
}

std::vector<std::string> HarmonyMarks() {
  return {"<|start|>",     "<|end|>",  "<|message|>", std::string(kChannel),
          "<|constrain|>", "<|call|>", "<|return|>"};
}

HarmonyParser::HarmonyParser(HarmonyOptions options) : options_(options), matcher_(HarmonyMarks()) {}

void HarmonyParser::push(std::string_view text, OutputEvents& events) {
  events_ = &events;
  for (const char c : text) next(c);
}

void HarmonyParser::next(char c) {
  if (at_ == At::kBegin) return next_of_begin(c);
  std::string text;
  const int found = matcher_.next(c, text);
  add_text(text);
  if (found >= 0) at_marker(matcher_.marker(found));
}

// The prompt ends with "<|start|>assistant": a header goes on, or a model that skips it answers at once.
void HarmonyParser::next_of_begin(char c) {
  header_ += c;
  const std::string_view text = Trimmed(header_);
  const auto may_be = [&](std::string_view header) {
    return header.starts_with(text) || text.starts_with(header);
  };
  const bool is = text.starts_with("to=") || text.starts_with("<|");
  if (!is && may_be("to=")) return;
  if (!is && may_be("<|")) return;
  const std::string again = std::exchange(header_, {});
  at_ = At::kHeader;
  if (!is) begin_content();
  for (const char byte : again) next(byte);
}

void HarmonyParser::add_text(std::string_view text) {
  for (const char c : text) {
    if (at_ == At::kBetween && !IsSpace(c)) begin_content();
    if (at_ == At::kBody) emit(std::string_view(&c, 1));
    if (at_ == At::kHeader) header_ += c;
    if (at_ == At::kHeader && header_.size() > kHeaderMax) {
      begin_content();
      emit(std::exchange(header_, {}));
    }
  }
}

void HarmonyParser::at_marker(const std::string& marker) {
  if (marker == "<|message|>") {
    if (at_ == At::kHeader) begin_body();
  } else if (marker == "<|constrain|>") {
    if (at_ == At::kHeader) header_ += ' ';
  } else if (marker == kChannel) {
    if (at_ != At::kHeader) end_body();
    at_ = At::kHeader;
    header_ += marker;
  } else {
    end_header();
    end_body();
    at_ = marker == "<|start|>" ? At::kHeader : At::kBetween;
    header_.clear();
  }
}

// A header without a message is content.
void HarmonyParser::end_header() {
  if (at_ != At::kHeader || SaysNothing(header_)) return;
  begin_content();
  emit(std::exchange(header_, {}));
}

void HarmonyParser::begin_body() {
  const std::string channel = WordAfter(header_, kChannel);
  std::string recipient = WordAfter(header_, "to=");
  header_.clear();
  at_ = At::kBody;
  body_empty_ = true;
  const bool to_tool =
      !recipient.empty() && recipient != "user" && recipient != "assistant" && recipient != "all";
  if (to_tool && options_.tools) {
    if (recipient.starts_with("functions.")) recipient.erase(0, std::string_view("functions.").size());
    body_ = Body::kCall;
    AddEvent(*events_, {.kind = OutputEvent::Kind::kCallBegin, .call = calls_++, .name = recipient});
  } else if (channel == "analysis" && options_.reasoning) {
    body_ = Body::kReasoning;
  } else {
    begin_content();
  }
}

void HarmonyParser::begin_content() {
  at_ = At::kBody;
  body_ = Body::kContent;
  body_empty_ = true;
}

void HarmonyParser::end_body() {
  if (at_ != At::kBody) return;
  at_ = At::kBetween;
  if (body_ != Body::kCall) return;
  if (body_empty_) emit("{}");
  AddEvent(*events_, {.kind = OutputEvent::Kind::kCallEnd, .call = calls_ - 1});
}

void HarmonyParser::emit(std::string_view text) {
  const bool first = std::exchange(body_empty_, false);
  if (body_ == Body::kCall) {
    AddEvent(*events_,
             {.kind = OutputEvent::Kind::kArguments, .text = std::string(text), .call = calls_ - 1});
    return;
  }
  const bool reasoning = body_ == Body::kReasoning;
  const bool apart = first && std::exchange(said_[reasoning ? 1 : 0], true);
  AddEvent(*events_, {.kind = reasoning ? OutputEvent::Kind::kReasoning : OutputEvent::Kind::kContent,
                      .text = (apart ? "\n\n" : "") + std::string(text)});
}

void HarmonyParser::finish(OutputEvents& events) {
  events_ = &events;
  if (at_ == At::kBegin) {
    begin_content();
    emit(std::exchange(header_, {}));
  }
  add_text(matcher_.take_held());
  end_header();
  body_empty_ = false;  // What was cut off is not empty.
  end_body();
}

}  // namespace shoal
