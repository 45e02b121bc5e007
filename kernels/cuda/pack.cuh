#pragma once
// Sixteen bytes at a time: the widest access of a thread, and with 32 neighbours the one that moves memory fastest.

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/dtype.h"

namespace omni {

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// Rounds to nearest even.
template <class T>
__device__ T narrow(float x) {
  if constexpr (sizeof(T) == 2) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
  } else {
    return x;
  }
}

// `Size` neighbouring values in registers, moved by one access.
template <class T, int Size>
struct alignas(sizeof(T) * Size) Pack {
  T lane[Size];
};

// How many values of T 16 bytes hold: four f32, eight bf16.
template <class T>
inline constexpr int kPackSize = 16 / sizeof(T);

// The address must be a multiple of the pack's bytes.
template <int Size, class T>
__device__ Pack<T, Size> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, Size>*>(from);
}
// To global memory. nvcc 13 splits a plain store of a pack into one for each value, depending on how the address was computed. The
// intrinsic for the default cache policy is a single store always.
template <class T, int Size>
__device__ void store_pack(T* to, const Pack<T, Size>& pack) {
  if constexpr (sizeof(pack) == 16) {
    __stwb(reinterpret_cast<uint4*>(to), __builtin_bit_cast(uint4, pack));
  } else if constexpr (sizeof(pack) == 8) {
    __stwb(reinterpret_cast<uint2*>(to), __builtin_bit_cast(uint2, pack));
  } else {
    *reinterpret_cast<Pack<T, Size>*>(to) = pack;
  }
}

// Calls body.operator()<Size>() with the pack size for rows of this width, in arrays that begin on 16 bytes: 16 bytes
// if every row begins on 16 bytes, else 1 value.
template <class T, class Body>
void dispatch_pack(std::int64_t width, Body&& body) {
  if (width % kPackSize<T> == 0)
    body.template operator()<kPackSize<T>>();
  else
    body.template operator()<1>();
}

}  // namespace omni
