#include "exec/mask_inbox.h"

#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "exec/step_codec.h"

namespace shoal {
namespace {

constexpr int64_t kPumpMs = 250;  // How long one wait lasts before the deadline is looked at again.

int64_t BytesOf(const TokenMask& mask) {
  return static_cast<int64_t>(sizeof(TokenMask) + mask.words.size() * sizeof(uint32_t));
}

}  // namespace

MaskInbox::MaskInbox(const Options& options, Pump pump) : options_(options), pump_(std::move(pump)) {}

void MaskInbox::on_masks(const Frame& frame) {
  if (frame.header.step < step_) return;
  absl::StatusOr<std::vector<TokenMask>> masks = DecodeMasks(frame, options_.vocabulary);
  if (!masks.ok()) return LogWarning("dropped: {}: {}", Describe(frame.header), Message(masks.status()));
  for (TokenMask& mask : *masks) {
    if (bytes_ + BytesOf(mask) > options_.bytes_max) {
      return LogWarning("dropped: {}: {} bytes of masks wait for their steps already", Describe(frame.header),
                        bytes_);
    }
    bytes_ += BytesOf(mask);
    masks_[frame.header.step].push_back(std::move(mask));
  }
}

void MaskInbox::on_lost(const absl::Status& status) {
  if (lost_.ok()) lost_ = status;
}

void MaskInbox::begin_step(StepId step) {
  step_ = step;
  waiting_ = false;
  waited_ns_ = 0;
  while (!masks_.empty() && masks_.begin()->first < step) {
    for (const TokenMask& mask : masks_.begin()->second) bytes_ -= BytesOf(mask);
    masks_.erase(masks_.begin());
  }
}

const TokenMask* MaskInbox::find(SeqId id, int64_t position) const {
  const auto of_step = masks_.find(step_);
  if (of_step == masks_.end()) return nullptr;
  for (const TokenMask& mask : of_step->second) {
    if (mask.id == id && mask.position == position) return &mask;
  }
  return nullptr;
}

absl::StatusOr<const TokenMask*> MaskInbox::wait_for(SeqId id, int64_t position) {
  if (const TokenMask* mask = find(id, position)) return mask;
  const int64_t begin_ns = NowNs();
  if (!std::exchange(waiting_, true)) deadline_ = Deadline::after(options_.timeout);
  const TokenMask* mask = nullptr;
  while ((mask = find(id, position)) == nullptr) {
    if (!lost_.ok()) return lost_;
    if (deadline_.expired()) {
      // An entry like those that come, so that it is found and forgotten like them.
      TokenMask late{.id = id, .position = static_cast<int32_t>(position)};
      late.status = DeadlineExceeded("the mask of its grammar did not come within {} s",
                                     options_.timeout / std::chrono::seconds(1));
      bytes_ += BytesOf(late);
      masks_[step_].push_back(std::move(late));
      continue;
    }
    const absl::Status pumped = pump_(Deadline::min(deadline_, Deadline::after_ms(kPumpMs)));
    if (!pumped.ok() && pumped.code() != absl::StatusCode::kDeadlineExceeded) return pumped;
  }
  waited_ns_ += NowNs() - begin_ns;
  return mask;
}

}  // namespace shoal
