// log(1 + e^x), of which states make their decays.
#pragma once

#include "numeric/transcendental.h"

namespace shoal {

/// The references compute it in f32, and take x itself above 20.
inline double Softplus(double x) { return x > 20 ? x : Log(1 + Exp(x)); }

}  // namespace shoal
