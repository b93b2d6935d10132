// The orders of a coordinator as any bytes: an order that is sound, or an InvalidArgument with a message. The
// first byte picks the order.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/status.h"
#include "cluster/control_wire.h"
#include "plan/machine_profile.h"

namespace {

template <typename Proto>
void CheckOrder(const uint8_t* data, size_t size) {
  Proto request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return;
  const auto order = shoal::FromProto(request);
  if (!order.ok()) {
    SHOAL_CHECK(order.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(!shoal::Message(order.status()).empty());
    return;
  }
  SHOAL_CHECK(order->node.value >= 0 && order->node.value < std::ssize(order->plan.nodes));
  const auto again = shoal::FromProto(shoal::ToProto(*order));  // What was read is what would be sent.
  SHOAL_CHECK(again.ok() && again->plan == order->plan && again->node == order->node);
}

/// An offer, its answer, a check of peers, or the use of experts.
template <typename Proto>
void CheckMessage(const uint8_t* data, size_t size) {
  Proto message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return;
  const auto read = shoal::FromProto(message);
  if (!read.ok()) {
    SHOAL_CHECK(read.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(!shoal::Message(read.status()).empty());
    return;
  }
  const auto again = shoal::FromProto(shoal::ToProto(*read));
  SHOAL_CHECK(again.ok() && *again == *read);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  switch (data[0] % 7) {
    case 0:
      CheckOrder<shoal::v1::PrepareRequest>(data + 1, size - 1);
      break;
    case 1:
      CheckOrder<shoal::v1::OpenRequest>(data + 1, size - 1);
      break;
    case 2:
      CheckMessage<shoal::v1::JoinRequest>(data + 1, size - 1);
      break;
    case 3:
      CheckMessage<shoal::v1::JoinReply>(data + 1, size - 1);
      break;
    case 4: {  // What workers say.
      shoal::v1::DescribeReply said;
      if (!said.ParseFromArray(data + 1, static_cast<int>(size - 1))) break;
      const auto rates = shoal::FromProto(said).rates;
      SHOAL_CHECK(!rates.has_value() || shoal::CheckRates(*rates).ok());
      break;
    }
    case 6:
      CheckMessage<shoal::v1::ExpertUseReply>(data + 1, size - 1);
      break;
    default:
      CheckMessage<shoal::v1::CheckPeersRequest>(data + 1, size - 1);
  }
  return 0;
}
