#include "mutation.h"

#include <string>

namespace shoal::sim {
namespace {

std::string& Planted() {
  static std::string name;
  return name;
}

}  // namespace

bool Mutated(std::string_view name) { return Planted() == name; }

void Mutate(std::string_view name) { Planted() = name; }

}  // namespace shoal::sim
