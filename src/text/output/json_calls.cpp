#include "text/output/json_calls.h"

#include <algorithm>
#include <optional>

#include "text/output/json_text.h"

namespace shoal {
namespace {

/// One object of a call.
class CallObject {
 public:
  CallObject(const JsonCallsSyntax& syntax, const ToolSchemas& schemas)
      : syntax_(&syntax), schemas_(&schemas) {}

  /// kDone: the object is complete, and was a call. kBroken: it is no call, or its rest is not JSON.
  ValueState next(char c, CallWriter& out);

 private:
  enum class At { kMember, kKey, kColon, kValue, kArguments, kArgumentsText, kOther, kAfter };
  enum class Kind { kName, kArguments, kId, kFunction, kOther };

  Kind kind_of_key() const;
  ValueState next_member(char c);
  ValueState begin_value(char c, CallWriter& out);
  ValueState begin_arguments(char c, CallWriter& out);
  ValueState next_arguments(char c, CallWriter& out);
  ValueState next_other(char c, CallWriter& out);
  ValueState next_after(char c, CallWriter& out);
  ValueState end_object(CallWriter& out);
  void end_other();
  bool may_begin() const { return !name_.empty() && (!syntax_->known_tools_only || schemas_->has(name_)); }
  void begin(CallWriter& out);
  void add_arguments(CallWriter& out, std::string_view json, size_t held);
  void end_arguments(CallWriter& out);

  const JsonCallsSyntax* syntax_;
  const ToolSchemas* schemas_;
  At at_ = At::kMember;
  int level_ = 1;  ///< 2 within "function".
  std::string key_, name_, id_;
  std::string value_;      ///< Of the member being read, as JSON.
  std::string arguments_;  ///< Before the name is known.
  std::string extra_;      ///< Members that say nothing to us.
  bool has_arguments_ = false;
  bool begun_ = false;
  JsonScanner scanner_;
  JsonStringReader string_;
};

ValueState CallObject::next(char c, CallWriter& out) {
  switch (at_) {
    case At::kMember:
      return c == '}' ? next_after(c, out) : next_member(c);
    case At::kKey:
      if (string_.next(c, key_) == ValueState::kDone) at_ = At::kColon;
      return ValueState::kMore;
    case At::kColon:
      if (c == ':') at_ = At::kValue;
      return c == ':' || IsSpace(c) ? ValueState::kMore : ValueState::kBroken;
    case At::kValue:
      return IsSpace(c) ? ValueState::kMore : begin_value(c, out);
    case At::kArguments:
    case At::kArgumentsText:
      return next_arguments(c, out);
    case At::kOther:
      return next_other(c, out);
    case At::kAfter:
      return next_after(c, out);
  }
  return ValueState::kBroken;
}

ValueState CallObject::next_member(char c) {
  if (IsSpace(c) || c == ',') return ValueState::kMore;
  if (c != '"') return ValueState::kBroken;
  key_.clear();
  string_ = {};
  at_ = At::kKey;
  return ValueState::kMore;
}

CallObject::Kind CallObject::kind_of_key() const {
  if (key_ == "name" || key_ == "tool_name") return Kind::kName;
  if (key_ == "arguments" || key_ == "parameters" || key_ == "args") return Kind::kArguments;
  if (key_ == "id" || key_ == "tool_call_id") return Kind::kId;
  if (key_ == "function") return Kind::kFunction;
  return Kind::kOther;
}

ValueState CallObject::begin_value(char c, CallWriter& out) {
  scanner_ = {};
  value_.clear();
  Kind kind = kind_of_key();
  if (kind == Kind::kFunction && c == '{' && level_ == 1) {
    level_ = 2;
    at_ = At::kMember;
    return ValueState::kMore;
  }
  if (kind == Kind::kOther && syntax_->short_form && name_.empty() && c == '{') {
    name_ = key_;
    kind = Kind::kArguments;
  }
  const bool scalar = c != '{' && c != '[' && c != '"';
  if (kind == Kind::kArguments && !has_arguments_ && !scalar) return begin_arguments(c, out);
  at_ = At::kOther;
  return next_other(c, out);
}

ValueState CallObject::begin_arguments(char c, CallWriter& out) {
  has_arguments_ = true;
  if (may_begin()) begin(out);
  at_ = At::kArguments;
  if (c != '"') return next_arguments(c, out);
  // The arguments as the text of a JSON object.
  string_ = {};
  at_ = At::kArgumentsText;
  return ValueState::kMore;
}

ValueState CallObject::next_arguments(char c, CallWriter& out) {
  if (at_ == At::kArgumentsText) {
    std::string piece;
    const bool done = string_.next(c, piece) == ValueState::kDone;
    add_arguments(out, piece, string_.held());
    if (done) end_arguments(out);
    return ValueState::kMore;
  }
  const ValueState state = scanner_.next(c);
  if (state == ValueState::kBroken) return state;
  add_arguments(out, std::string_view(&c, 1), 0);
  if (state == ValueState::kDone) end_arguments(out);
  return ValueState::kMore;
}

void CallObject::end_arguments(CallWriter& out) {
  at_ = At::kAfter;
  if (begun_) out.end();
}

ValueState CallObject::next_other(char c, CallWriter& out) {
  const ValueState state = scanner_.next(c);
  if (state == ValueState::kBroken) return state;
  if (state != ValueState::kDoneBefore) value_ += c;
  if (state == ValueState::kMore) return state;
  at_ = At::kAfter;
  end_other();
  return state == ValueState::kDoneBefore ? next_after(c, out) : ValueState::kMore;
}

void CallObject::end_other() {
  std::string text;
  if (value_.starts_with('"')) {
    JsonStringReader reader;
    for (const char c : value_.substr(1)) reader.next(c, text);
  }
  const Kind kind = kind_of_key();
  if ((kind == Kind::kName || kind == Kind::kFunction) && name_.empty() && !text.empty()) {
    name_ = text;
  } else if (kind == Kind::kId && id_.empty() && !begun_) {
    id_ = text.empty() ? value_ : text;
  } else if (kind == Kind::kArguments && !has_arguments_ && value_ == "null") {
    return;  // No arguments.
  } else if (kind != Kind::kId && !(key_ == "type" && text == "function")) {
    extra_ += JsonQuoted(key_) + ": " + value_ + "\n";
  }
}

ValueState CallObject::next_after(char c, CallWriter& out) {
  if (IsSpace(c)) return ValueState::kMore;
  if (c == ',') {
    at_ = At::kMember;
    return ValueState::kMore;
  }
  if (c != '}') return ValueState::kBroken;
  at_ = At::kAfter;
  return --level_ > 0 ? ValueState::kMore : end_object(out);
}

ValueState CallObject::end_object(CallWriter& out) {
  if (!begun_ && !may_begin()) return ValueState::kBroken;
  if (!begun_) begin(out);
  if (!has_arguments_) out.arguments("{}");
  out.end();
  out.content(extra_);
  out.accept();
  return ValueState::kDone;
}

void CallObject::begin(CallWriter& out) {
  begun_ = true;
  out.begin(name_, id_);
  out.arguments(std::exchange(arguments_, {}));
}

void CallObject::add_arguments(CallWriter& out, std::string_view json, size_t held) {
  if (begun_) {
    out.arguments(json);
    out.accept(held);
  } else {
    arguments_ += json;
  }
}

class JsonCalls : public CallGrammar {
 public:
  JsonCalls(JsonCallsSyntax syntax, const ToolSchemas& schemas)
      : syntax_(std::move(syntax)), schemas_(&schemas), closers_(syntax_.closers) {}

  void open(std::string_view /*marker*/) override {
    object_.reset();
    closers_.reset();
    called_ = false;
    list_ended_ = false;
  }

  Verdict next(char c, CallWriter& out) override {
    if (!object_.has_value()) return next_between(c, out);
    const ValueState state = object_->next(c, out);
    if (state == ValueState::kMore) return Verdict::kMore;
    object_.reset();
    called_ = true;
    return state == ValueState::kDone ? Verdict::kMore : Verdict::kRefused;
  }

 private:
  Verdict next_between(char c, CallWriter& out) {
    const int found = closers_.next(c);
    if (found >= 0) return Verdict::kDone;
    if (found == MarkerReader::kMore) return Verdict::kMore;
    if (found == MarkerReader::kBroken) return Verdict::kRefused;
    if (c == '{' && !list_ended_) {
      object_.emplace(syntax_, *schemas_);
      return Verdict::kMore;
    }
    if (!IsSpace(c) && !std::string_view("[],;").contains(c)) return Verdict::kRefused;
    if (c == ']') list_ended_ = true;
    if (called_) out.accept();  // The end of a list need not be followed by anything.
    return Verdict::kMore;
  }

  const JsonCallsSyntax syntax_;
  const ToolSchemas* const schemas_;
  std::optional<CallObject> object_;
  MarkerReader closers_;
  bool called_ = false;
  bool list_ended_ = false;
};

}  // namespace

std::unique_ptr<CallGrammar> MakeJsonCalls(JsonCallsSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<JsonCalls>(std::move(syntax), schemas);
}

}  // namespace shoal
