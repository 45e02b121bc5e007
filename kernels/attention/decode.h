#pragma once
// Attention of very few queries over a cache: bound by reading the cache once, so nothing is packed.

#include "kernels/attention/attention.h"

namespace omni {

constexpr std::int64_t kDecodeQueries = 4;  // beyond this the blocked form is faster

template <class T>
void attention_decode(const CpuContext& cpu, const Attention& op);

}  // namespace omni
