#include "text/output/nested_calls.h"

#include <utility>
#include <vector>

#include "text/output/json_text.h"
#include "text/output/named_calls.h"

namespace shoal {
namespace {

constexpr size_t kTagMax = 1024;
constexpr size_t kDepthMax = 64;
constexpr std::string_view kInvoke = "<invoke name=\"";
constexpr std::string_view kNameEnd = "\">";

class NestedCalls : public CallGrammar {
 public:
  NestedCalls(NestedCallsSyntax syntax, const ToolSchemas& schemas)
      : syntax_(std::move(syntax)), schemas_(&schemas), marks_({syntax_.mark}) {}

  void open(std::string_view /*marker*/) override {
    marks_.take_held();
    elements_.clear();
    text_.clear();
    in_tag_ = false;
  }

  Verdict next(char c, CallWriter& out) override {
    if (in_tag_) {
      tag_ += c;
      if (c == '>') {
        in_tag_ = false;
        return end_tag(out);
      }
      return tag_.size() > kTagMax ? refuse(out) : Verdict::kMore;
    }
    const bool marked = marks_.next(c, text_) >= 0;
    if (!is_leaf() && !Trimmed(text_).empty()) return refuse(out);
    if (marked) {
      in_tag_ = true;
      tag_.clear();
    }
    return Verdict::kMore;
  }

 private:
  struct Element {
    std::string name;
    SchemaNode schema;
    bool opened = false;  ///< It has elements, and its bracket went out.
    bool is_array = false;
    int children = 0;
  };

  /// Whether the text belongs to a value: else only spaces may stand there.
  bool is_leaf() const { return elements_.size() > 1 && !elements_.back().opened; }

  Verdict end_tag(CallWriter& out) {
    const std::string_view tag = tag_;
    if (elements_.empty()) {
      if (tag == "</" + syntax_.block + ">") return Verdict::kDone;
      return begin_call(out) ? Verdict::kMore : Verdict::kRefused;
    }
    if (tag.starts_with("</")) return end_element(tag.substr(2, tag.size() - 3), out);
    if (!tag.starts_with('<') || tag.size() < 3) return refuse(out);
    return begin_element(std::string(tag.substr(1, tag.size() - 2)), out);
  }

  bool begin_call(CallWriter& out) {
    const std::string_view tag = tag_;
    if (!tag.starts_with(kInvoke) || !tag.ends_with(kNameEnd) ||
        tag.size() < kInvoke.size() + kNameEnd.size())
      return false;
    const std::string_view name = tag.substr(kInvoke.size(), tag.size() - kInvoke.size() - kNameEnd.size());
    if (!IsToolName(name)) return false;
    out.begin(name);
    elements_ = {{.name = "invoke", .schema = schemas_->parameters(name), .opened = true}};
    out.arguments("{");
    text_.clear();
    return true;
  }

  Verdict begin_element(std::string name, CallWriter& out) {
    if (!Trimmed(text_).empty() || elements_.size() > kDepthMax) return refuse(out);
    text_.clear();
    Element& parent = elements_.back();
    if (!parent.opened) {
      parent.opened = true;
      parent.is_array = name == syntax_.item && parent.schema.may_be_array();
      out.arguments(prefix(elements_.size() - 1) + (parent.is_array ? "[" : "{"));
      out.accept(syntax_.mark.size() + tag_.size());
    }
    if (parent.is_array && name != syntax_.item) return refuse(out);
    const SchemaNode schema = parent.is_array ? parent.schema.items() : parent.schema.property(name);
    elements_.push_back({.name = std::move(name), .schema = schema});
    return Verdict::kMore;
  }

  Verdict end_element(std::string_view name, CallWriter& out) {
    Element& element = elements_.back();
    if (name != element.name) return refuse(out);
    if (elements_.size() == 1) {
      out.arguments("}");
      out.end();
      out.accept();
      elements_.clear();
      text_.clear();
      return Verdict::kMore;
    }
    out.arguments(element.opened ? closing(element) : prefix(elements_.size() - 1) + leaf(element));
    out.accept();
    text_.clear();
    elements_.pop_back();
    return Verdict::kMore;
  }

  /// What stands before the value of the element, which counts as a child of its parent from now on.
  std::string prefix(size_t at) {
    Element& parent = elements_[at - 1];
    const std::string comma = parent.children++ > 0 ? ", " : "";
    return parent.is_array ? comma : comma + JsonQuoted(elements_[at].name) + ": ";
  }

  static std::string closing(const Element& element) { return element.is_array ? "]" : "}"; }

  std::string leaf(const Element& element) const {
    const ValueTypes types = element.schema.types();
    if (text_.empty() && !types.text && types.other) {
      if (element.schema.may_be_array()) return "[]";
      if (element.schema.may_be_object()) return "{}";
    }
    return ValueJson(text_, types);
  }

  /// A call that has begun is complete with the elements that it has.
  Verdict refuse(CallWriter& out) {
    for (; !elements_.empty(); elements_.pop_back()) {
      if (elements_.back().opened) out.arguments(closing(elements_.back()));
    }
    return Verdict::kRefused;
  }

  const NestedCallsSyntax syntax_;
  const ToolSchemas* const schemas_;
  MarkerMatcher marks_;
  std::vector<Element> elements_;  ///< Those that are open; the first is the call.
  std::string text_;               ///< Since the last tag.
  bool in_tag_ = false;
  std::string tag_;
};

}  // namespace

std::unique_ptr<CallGrammar> MakeNestedCalls(NestedCallsSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<NestedCalls>(std::move(syntax), schemas);
}

}  // namespace shoal
