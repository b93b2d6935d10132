// Two grammars behind one opening marker; the first byte that tells decides.
#pragma once

#include <memory>

#include "text/output/tool_parser.h"

namespace shoal {

/// `objects` reads what begins with "{", after spaces and "[" of a list; `others` the rest. Both from the start.
std::unique_ptr<CallGrammar> MakeChoice(std::unique_ptr<CallGrammar> objects,
                                        std::unique_ptr<CallGrammar> others);

}  // namespace shoal
