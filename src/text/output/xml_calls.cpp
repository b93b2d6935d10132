#include "text/output/xml_calls.h"

#include <algorithm>

#include "text/output/json_text.h"
#include "text/output/named_calls.h"

namespace shoal {
namespace {

constexpr size_t kNameMax = 1024;

/// `first`, and the marks that end all calls.
MarkerReader ReaderOf(const XmlCallsSyntax& syntax, std::vector<std::string> first) {
  first.insert(first.end(), syntax.close.begin(), syntax.close.end());
  return MarkerReader(std::move(first));
}

std::vector<std::string> ValueMarks(const XmlCallsSyntax& syntax) {
  std::vector<std::string> marks = {syntax.value_close};
  if (!syntax.quote_open.empty()) marks.insert(marks.end(), {syntax.quote_open, syntax.quote_close});
  return marks;
}

class XmlCalls : public CallGrammar {
 public:
  XmlCalls(XmlCallsSyntax syntax, const ToolSchemas& schemas)
      : syntax_(std::move(syntax)),
        schemas_(&schemas),
        between_(ReaderOf(syntax_, {syntax_.call_open})),
        tag_(ReaderOf(syntax_, {syntax_.tag_close})),
        inside_(ReaderOf(syntax_, {syntax_.key_open, syntax_.call_close})),
        attributes_(ReaderOf(syntax_, {syntax_.value_open})),
        value_marks_(ValueMarks(syntax_)) {}

  void open(std::string_view marker) override {
    held_.clear();
    for (MarkerReader* reader : {&between_, &tag_, &inside_, &attributes_}) reader->reset();
    at_ = syntax_.call_open.empty() || marker == syntax_.call_open ? At::kName : At::kBetween;
  }

  Verdict next(char c, CallWriter& out) override {
    switch (at_) {
      case At::kBetween:
        return next_between(c);
      case At::kName:
        return next_of_name(c, out);
      case At::kTag:
        return next_of_tag(c);
      case At::kInside:
        return next_inside(c, out);
      case At::kKey:
        return next_of_key(c, out);
      case At::kAttributes:
        return next_of_attributes(c, out);
      case At::kValue:
        return next_of_value(c, out);
    }
    return Verdict::kRefused;
  }

 private:
  enum class At { kBetween, kName, kTag, kInside, kKey, kAttributes, kValue };

  /// The next byte of a marker. Spaces before it are passed over.
  static int Next(MarkerReader& reader, char c) {
    return !reader.begun() && IsSpace(c) ? MarkerReader::kMore : reader.next(c);
  }

  Verdict next_between(char c) {
    const int found = Next(between_, c);
    if (found == 0) at_ = At::kName;
    if (found > 0) return Verdict::kDone;
    return found == 0 || found == MarkerReader::kMore ? Verdict::kMore : Verdict::kRefused;
  }

  Verdict next_of_name(char c, CallWriter& out) {
    if (syntax_.name_close.empty() && held_.empty() && IsSpace(c)) return Verdict::kMore;
    if (syntax_.name_close.empty() && (IsSpace(c) || c == '<')) {
      return end_name() ? next_inside(c, out) : Verdict::kRefused;
    }
    held_ += c;
    if (held_.size() > kNameMax) return Verdict::kRefused;
    if (syntax_.name_close.empty() || !held_.ends_with(syntax_.name_close)) return Verdict::kMore;
    held_.resize(held_.size() - syntax_.name_close.size());
    return end_name() ? Verdict::kMore : Verdict::kRefused;
  }

  // The call begins with what follows the name, as a name alone may be any text.
  bool end_name() {
    name_ = Trimmed(held_);
    held_.clear();
    begun_ = false;
    parameters_ = 0;
    at_ = syntax_.tag_close.empty() ? At::kInside : At::kTag;
    return IsToolName(name_);
  }

  Verdict next_of_tag(char c) {
    if (!syntax_.tag_has_attributes) {
      const int found = Next(tag_, c);
      if (found == 0) at_ = At::kInside;
      return found == 0 || found == MarkerReader::kMore ? Verdict::kMore : Verdict::kRefused;
    }
    held_ += c;
    if (held_.size() > kNameMax) return Verdict::kRefused;
    if (!held_.ends_with(syntax_.tag_close)) return Verdict::kMore;
    held_.clear();
    at_ = At::kInside;
    return Verdict::kMore;
  }

  Verdict next_inside(char c, CallWriter& out) {
    const int found = Next(inside_, c);
    if (found >= 0 && !std::exchange(begun_, true)) out.begin(name_);
    switch (found) {
      case 0:
        at_ = At::kKey;
        return Verdict::kMore;
      case 1:
        end_call(out);
        return syntax_.close.empty() ? Verdict::kDone : Verdict::kMore;
      case MarkerReader::kMore:
        return Verdict::kMore;
      case MarkerReader::kOther:
      case MarkerReader::kBroken:
        return refuse(out);
      default:  // The end of the call is missing.
        end_call(out);
        return Verdict::kDone;
    }
  }

  void end_call(CallWriter& out) {
    out.arguments(parameters_ == 0 ? "{}" : "}");
    out.end();
    out.accept();
    at_ = At::kBetween;
  }

  Verdict next_of_key(char c, CallWriter& out) {
    held_ += c;
    if (held_.size() > kNameMax) return refuse(out);
    if (!held_.ends_with(syntax_.key_close)) return Verdict::kMore;
    held_.resize(held_.size() - syntax_.key_close.size());
    key_ = Trimmed(held_);
    held_.clear();
    at_ = At::kAttributes;
    if (syntax_.value_open.empty()) begin_value("", out);
    return Verdict::kMore;
  }

  Verdict next_of_attributes(char c, CallWriter& out) {
    if (syntax_.text_attribute.empty()) {
      const int found = Next(attributes_, c);
      if (found == 0) begin_value("", out);
      return found == 0 || found == MarkerReader::kMore ? Verdict::kMore : refuse(out);
    }
    held_ += c;
    if (held_.size() > kNameMax) return refuse(out);
    if (held_.ends_with(syntax_.value_open)) begin_value(std::exchange(held_, {}), out);
    return Verdict::kMore;
  }

  // A call that has begun is complete with the parameters that it has.
  Verdict refuse(CallWriter& out) {
    if (begun_) out.arguments(parameters_ == 0 ? "{}" : "}");
    return Verdict::kRefused;
  }

  void begin_value(std::string_view attributes, CallWriter& out) {
    types_ = schemas_->types(name_, key_);
    if (!syntax_.text_attribute.empty() && attributes.contains(syntax_.text_attribute)) {
      types_ = {.text = true};
    } else if (!syntax_.json_attribute.empty() && attributes.contains(syntax_.json_attribute)) {
      types_ = {.other = true};
    }
    at_ = At::kValue;
    value_.clear();
    newline_ = false;
    first_ = true;
    quoted_ = false;
    out.arguments((parameters_++ == 0 ? "{" : ", ") + JsonQuoted(key_) + ": ");
    if (is_text()) out.arguments("\"");
    out.accept();
  }

  bool is_text() const { return types_.text && !types_.other; }

  Verdict next_of_value(char c, CallWriter& out) {
    std::string released;
    const int mark = value_marks_.next(c, released);
    add_text(released, out);
    const bool ended = mark == 0 && !quoted_;
    if (mark == 0 && quoted_) add_text(syntax_.value_close, out);
    if (mark == 1) quoted_ = true;
    if (mark == 2) quoted_ = false;
    if (is_text() && !ended) out.accept(value_marks_.held() + (newline_ ? 1 : 0));
    if (!ended) return Verdict::kMore;
    if (is_text()) {
      if (newline_ && !framed_) out.arguments("\\n");
      out.arguments("\"");
    } else {
      if (framed_ && value_.ends_with('\n')) value_.pop_back();
      out.arguments(ValueJson(value_, types_));
    }
    out.accept();
    newline_ = false;
    value_.clear();
    at_ = At::kInside;
    return Verdict::kMore;
  }

  void add_text(std::string_view text, CallWriter& out) {
    for (const char c : text) {
      if (std::exchange(first_, false)) {
        framed_ = syntax_.framed && c == '\n';
        if (framed_) continue;
      }
      if (!is_text()) {
        value_ += c;
        continue;
      }
      // The last newline may be the frame's.
      if (newline_) out.arguments("\\n");
      newline_ = c == '\n';
      if (newline_) continue;
      std::string json;
      AppendEscaped(json, std::string_view(&c, 1));
      out.arguments(json);
    }
  }

  const XmlCallsSyntax syntax_;
  const ToolSchemas* const schemas_;
  At at_ = At::kBetween;
  std::string held_;
  std::string name_, key_;
  ValueTypes types_;
  bool begun_ = false;
  int parameters_ = 0;
  MarkerReader between_, tag_, inside_, attributes_;
  MarkerMatcher value_marks_;
  std::string value_;     ///< Of a value that goes out when it is complete.
  bool first_ = false;    ///< Nothing of the value was read yet.
  bool quoted_ = false;   ///< Between the marks of a quoted value.
  bool framed_ = false;   ///< The value began with the frame's newline.
  bool newline_ = false;  ///< A newline of a text is held back.
};

}  // namespace

std::unique_ptr<CallGrammar> MakeXmlCalls(XmlCallsSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<XmlCalls>(std::move(syntax), schemas);
}

}  // namespace shoal
