// Answers of /v1/responses: an object with items, or the events that build it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "api/answer/answer_writer.h"
#include "api/http/server.h"
#include "api/json.h"

namespace shoal {

struct ResponseFormat {
  std::string id;  ///< "resp_..."
  std::string model;
  int64_t created = 0;  ///< Unix seconds.
  std::string echo;     ///< Fields of the request that a response repeats, as a JSON object.
  std::set<std::string> custom_tools;
  /// Told of a complete response. May be empty; must not block.
  std::function<void(const Json& response)> keep = {};
};

std::unique_ptr<AnswerWriter> ResponseWholeWriter(ResponseFormat format,
                                                  std::shared_ptr<ResponseWriter> writer);
std::unique_ptr<AnswerWriter> ResponseStreamWriter(ResponseFormat format,
                                                   std::shared_ptr<ResponseWriter> writer);

/// The items of a response as messages of a chat: what a later request has before its own.
Json MessageOfOutput(const Json& output);

}  // namespace shoal
