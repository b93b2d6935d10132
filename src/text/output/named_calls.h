// Calls that name the tool outside of their arguments: <begin>NAME<separator>{...}<end>.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/literal_reader.h"
#include "text/output/tool_parser.h"

namespace shoal {

struct CallHeader {
  std::string name;
  std::string id = {};
};

struct NamedCallsSyntax {
  /// Begins a call; "": the opening marker does.
  std::string call_open;
  /// What a call's text up to its arguments says; nullopt: it is no call.
  std::optional<CallHeader> (*header)(std::string_view text) = nullptr;
  /// Ends a call; "": the end of its arguments does.
  std::string call_close;
  /// Between arguments and `call_close`, beside spaces: "```".
  std::string filler = "";
  /// Ends all calls; "": the end of a call does.
  std::string close;
  /// The notation of the arguments where it is not JSON.
  std::optional<LiteralSyntax> literal = std::nullopt;
};

std::unique_ptr<CallGrammar> MakeNamedCalls(NamedCallsSyntax syntax);

/// Whether `name` looks like the name of a tool.
bool IsToolName(std::string_view name);

}  // namespace shoal
