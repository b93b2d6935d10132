#include "text/output/recipient_calls.h"

#include "text/output/json_text.h"

namespace shoal {
namespace {

constexpr size_t kNameMax = 256;

class RecipientCalls : public CallGrammar {
 public:
  RecipientCalls(RecipientCallsSyntax syntax, const ToolSchemas& schemas)
      : syntax_(std::move(syntax)), schemas_(&schemas) {}

  void open(std::string_view /*marker*/) override {
    name_.clear();
    at_ = At::kName;
  }

  Verdict next(char c, CallWriter& out) override {
    switch (at_) {
      case At::kName:
        return next_of_name(c, out);
      case At::kBefore:
        if (IsSpace(c)) return Verdict::kMore;
        if (c != '{') return Verdict::kRefused;
        out.begin(name_);
        scanner_ = {};
        at_ = At::kArguments;
        break;
      case At::kArguments:
        break;
    }
    const ValueState state = scanner_.next(c);
    if (state == ValueState::kBroken) return Verdict::kRefused;
    out.arguments(std::string_view(&c, 1));
    out.accept();
    if (state == ValueState::kMore) return Verdict::kMore;
    out.end();
    return Verdict::kDone;
  }

 private:
  enum class At { kName, kBefore, kArguments };

  Verdict next_of_name(char c, CallWriter& out) {
    if (c != '\n') {
      name_ += c;
      return name_.size() > kNameMax ? Verdict::kRefused : Verdict::kMore;
    }
    name_ = Trimmed(name_);
    if (name_ == syntax_.user) {
      out.accept();
      return Verdict::kDone;
    }
    at_ = At::kBefore;
    return schemas_->has(name_) ? Verdict::kMore : Verdict::kRefused;
  }

  const RecipientCallsSyntax syntax_;
  const ToolSchemas* const schemas_;
  At at_ = At::kName;
  std::string name_;
  JsonScanner scanner_;
};

}  // namespace

std::unique_ptr<CallGrammar> MakeRecipientCalls(RecipientCallsSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<RecipientCalls>(std::move(syntax), schemas);
}

}  // namespace shoal
