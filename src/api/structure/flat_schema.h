// A JSON schema without references and alternatives: what a grammar of our own can be made of.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/json.h"

namespace shoal {

/// One of the alternatives of a schema. Its type may be empty: any value.
struct FlatSchema {
  std::string type;  ///< "integer", or empty.
  std::shared_ptr<const Json>
      keywords;  ///< Without $ref, allOf, anyOf, oneOf, type, and what says nothing of values.
  std::shared_ptr<const Json> values = nullptr;  ///< Of const and enum: only these. Null: any.
};

/// An empty object.
std::shared_ptr<const Json> NoKeywords();

struct FlatSchemas {
  std::vector<FlatSchema> alternatives;
  std::string refused;  ///< A keyword that can't be honoured exactly; empty: none.
};

/// The alternatives of `schema`; none: no value is of it. root: what "#" in a reference stands for. A keyword that is
/// not known is left out, and named.
FlatSchemas Flatten(const Json& schema, const Json& root);

}  // namespace shoal
