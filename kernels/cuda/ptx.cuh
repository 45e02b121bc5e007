#pragma once
// The PTX instructions that CUDA C++ has no name for, each under one of its own: tensor-core products, their operand
// loads, and copies to shared memory that run beside the arithmetic. sm_80 and newer.
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".

#include <cuda_runtime.h>

#include <cstdint>

namespace omni {

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// d += a b for a 16 x 16 (row by row) and b 16 x 8 (column by column) in bf16 and d 16 x 8 in f32. With group = lane /
// 4 and pair = 2 (lane % 4), a lane holds
//   a[0..3]  a(group, pair..), a(group + 8, pair..), a(group, pair + 8..), a(group + 8, pair + 8..), two values each
//   b[0..1]  b(pair.., group), b(pair + 8.., group)
//   d[0..3]  d(group, pair), d(group, pair + 1), d(group + 8, pair), d(group + 8, pair + 1)
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8, 16 bytes aligned.
// Register i of a lane gets values (lane / 4, 2 (lane % 4)) and the next one of matrix i; with _transposed, of its
// transpose.
__device__ inline void ldmatrix_x4(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ inline void ldmatrix_x4_transposed(unsigned (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// 2^x in one instruction, off by at most two units in the last place; zero where that is too small for a normal float.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Copies 16 bytes to shared memory past the registers; zeros instead if `valid` is false (`from` is then not read, but
// must be an address of the array). Seen after copy_wait and a barrier.
__device__ inline void copy_async(unsigned to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// Closes the group of this thread's copies since the last call.
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most `Groups` of the groups that this thread closed are still on their way.
template <int Groups>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Groups) : "memory");
}

}  // namespace omni
