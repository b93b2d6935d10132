// What the coordinator tells the nodes of a session that goes on without one of them, so that not each of them has to find
// out by waiting for it.
#pragma once

#include <optional>

#include "base/ids.h"
#include "wire/frame.h"

namespace shoal {

inline constexpr uint8_t kLostFlag = 2;  ///< Of a kPosition frame: its step is the node that is lost.

inline Frame EncodeLostNotice(Epoch epoch, NodeId lost) {
  Frame frame;
  frame.header.kind = FrameKind::kPosition;
  frame.header.flags = kLostFlag;
  frame.header.epoch = epoch;
  frame.header.step = StepId{static_cast<uint64_t>(lost.value)};
  return frame;
}

/// The node, which need not be one of the plan; nothing where the frame is another one.
inline std::optional<NodeId> LostNoticeOf(const Frame& frame) {
  if (frame.header.kind != FrameKind::kPosition || (frame.header.flags & kLostFlag) == 0) return std::nullopt;
  return NodeId{static_cast<int32_t>(frame.header.step.value)};
}

}  // namespace shoal
