// What is known of a folder or file that does not run.
#pragma once

#include <string>
#include <vector>

namespace shoal {

/// Lines for a person: which keys and tensors stand in the way, all of them as far as they can be told apart, what is
/// known of the model_type and of the encoding, and what the files hold. Reads heads of files only.
std::vector<std::string> ExplainModel(const std::string& folder);

}  // namespace shoal
