#include "text/output/choice_grammar.h"

#include <string>

#include "text/output/json_text.h"

namespace shoal {
namespace {

class ChoiceGrammar : public CallGrammar {
 public:
  ChoiceGrammar(std::unique_ptr<CallGrammar> objects, std::unique_ptr<CallGrammar> others)
      : objects_(std::move(objects)), others_(std::move(others)) {}

  void open(std::string_view marker) override {
    marker_ = marker;
    begun_.clear();
    chosen_ = nullptr;
  }

  Verdict next(char c, CallWriter& out) override {
    if (chosen_ != nullptr) return chosen_->next(c, out);
    if (IsSpace(c) || c == '[') {
      begun_ += c;
      return Verdict::kMore;
    }
    chosen_ = c == '{' ? objects_.get() : others_.get();
    chosen_->open(marker_);
    for (const char again : begun_) {
      if (const Verdict verdict = chosen_->next(again, out); verdict != Verdict::kMore) return verdict;
    }
    return chosen_->next(c, out);
  }

 private:
  const std::unique_ptr<CallGrammar> objects_;
  const std::unique_ptr<CallGrammar> others_;
  CallGrammar* chosen_ = nullptr;
  std::string marker_;
  std::string begun_;
};

}  // namespace

std::unique_ptr<CallGrammar> MakeChoice(std::unique_ptr<CallGrammar> objects,
                                        std::unique_ptr<CallGrammar> others) {
  return std::make_unique<ChoiceGrammar>(std::move(objects), std::move(others));
}

}  // namespace shoal
