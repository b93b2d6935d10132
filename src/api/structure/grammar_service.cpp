#include "api/structure/grammar_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/status.h"

namespace shoal {
namespace {

/// The state of one text in a grammar.
class GrammarConstraint final : public TokenConstraint {
 public:
  /// words: of a mask, for the model's vocabulary, which may be smaller than the tokenizer's.
  GrammarConstraint(Grammar grammar, size_t words) : words_(words), grammar_(std::move(grammar)) {}

  absl::Status mask(std::vector<uint32_t>& words) override {
    words.resize(grammar_.mask_words());
    RETURN_IF_ERROR(grammar_.mask(words));
    words.resize(words_);
    return absl::OkStatus();
  }
  absl::Status consume(int32_t token) override { return grammar_.consume(token); }
  absl::Status rewind(int64_t count) override { return grammar_.rewind(count); }
  absl::StatusOr<std::vector<int32_t>> forced() override { return grammar_.forced_tokens(); }
  absl::StatusOr<std::unique_ptr<TokenConstraint>> clone() const override {
    const std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(Grammar copy, grammar_.copy());
    return std::make_unique<GrammarConstraint>(std::move(copy), words_);
  }

 private:
  const size_t words_;
  mutable std::mutex mutex_;  ///< Of copies: a grammar is used by one thread at a time.
  Grammar grammar_;
};

}  // namespace

GrammarService::GrammarService(const Tokenizer& tokenizer, GrammarServiceOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {}

absl::StatusOr<std::shared_ptr<const GrammarCompiler>> GrammarService::compiler() {
  const std::lock_guard lock(compiler_mutex_);
  if (compiler_ == nullptr) {
    const int32_t known = tokenizer_.vocab_size();
    std::vector<int32_t> eos = options_.eos_ids;
    std::erase_if(eos, [&](int32_t id) { return id < 0 || id >= std::min(known, options_.vocabulary); });
    ASSIGN_OR_RETURN(GrammarCompiler made,
                     GrammarCompiler::Create(tokenizer_, std::max(known, options_.vocabulary), eos));
    compiler_ = std::make_shared<const GrammarCompiler>(std::move(made));
  }
  return compiler_;
}

ApiResult<std::shared_ptr<const TokenConstraint>> GrammarService::constraint(const Structure& structure) {
  const std::string key = fmt::format("{} {}", static_cast<int>(structure.kind), structure.text);
  if (auto known = find(key)) return known;
  const auto made = compiler();
  if (!made.ok()) {  // Of the model: no request can do anything about it.
    return std::unexpected(ApiError{.message = fmt::format("'{}' can't be enforced with this model: {}",
                                                           structure.field, Message(made.status())),
                                    .param = structure.field,
                                    .code = "unsupported_parameter"});
  }
  absl::StatusOr<Grammar> grammar = (*made)->compile(structure.kind, structure.text);
  if (!grammar.ok())
    return std::unexpected(StructureError(structure, std::string(Message(grammar.status()))));
  auto constraint = std::make_shared<const GrammarConstraint>(
      *std::move(grammar), (static_cast<size_t>(options_.vocabulary) + 31) / 32);
  keep(key, constraint);
  return constraint;
}

std::shared_ptr<const TokenConstraint> GrammarService::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found->second);
  return kept_.front().constraint;
}

void GrammarService::keep(std::string key, std::shared_ptr<const TokenConstraint> constraint) {
  const std::lock_guard lock(mutex_);
  ++compiled_;
  if (by_key_.contains(key)) return;  // Another request compiled it meanwhile.
  kept_.push_front({key, std::move(constraint)});
  by_key_.emplace(std::move(key), kept_.begin());
  if (kept_.size() <= options_.kept_max) return;
  by_key_.erase(kept_.back().key);
  kept_.pop_back();
}

int64_t GrammarService::compiled() const {
  const std::lock_guard lock(mutex_);
  return compiled_;
}

}  // namespace shoal
