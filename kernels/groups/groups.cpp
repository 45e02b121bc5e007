#include "kernels/groups/groups.h"

#include "kernels/rounding.h"
#include "kernels/simd.h"

namespace omni {
namespace {

// Both are loops over blocks of neighbouring elements, so that sums stay in the cache. `size`: of one group.
constexpr std::int64_t kBlock = 1024;

template <class T>
void sum_groups(const CpuContext& cpu, T* y, const T* x, std::int64_t size, std::int64_t groups, Wide<T> factor) {
  const std::int64_t blocks = ceil_div(size, kBlock);
  parallel_ranges(cpu, blocks, kBlock * groups, [=](std::int64_t begin, std::int64_t end) {
    Wide<T> sum[kBlock];
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kBlock, count = std::min(kBlock, size - first);
      std::fill_n(sum, count, Wide<T>{0});
      for (std::int64_t g = 0; g < groups; ++g) {
        const T* from = x + g * size + first;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) sum[i] += to_float(from[i]);
      }
#pragma omp simd
      for (std::int64_t i = 0; i < count; ++i) y[first + i] = round_to<T>(factor * sum[i]);
    }
  });
}

template <class T>
void add_groups(const CpuContext& cpu, T* y, const T* x, std::int64_t size, std::int64_t groups, Wide<T> factor,
                bool accumulate) {
  const std::int64_t blocks = ceil_div(size, kBlock);
  parallel_ranges(cpu, blocks, kBlock * groups, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kBlock, count = std::min(kBlock, size - first);
      const T* from = x + first;
      for (std::int64_t g = 0; g < groups; ++g) {
        T* to = y + g * size + first;
        if (accumulate) {
#pragma omp simd
          for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<T>(to_float(to[i]) + factor * to_float(from[i]));
        } else {
#pragma omp simd
          for (std::int64_t i = 0; i < count; ++i) to[i] = round_to<T>(factor * to_float(from[i]));
        }
      }
    }
  });
}

// `many` holds the rows of `one` once per group.
void check_groups(Check& that, const char* many_name, const Operand& many, const char* one_name, const Operand& one,
                  std::int64_t groups) {
  that.same(one_name, one);
  that.that(groups > 0, "groups must be positive, found " + std::to_string(groups));
  that.matrix(many_name, many, one.dtype, groups * one.rows(), one.width());
}

}  // namespace

void SumGroups::check(Check& that) const { check_groups(that, "x", x, "y", y, groups); }

void AddGroups::check(Check& that) const { check_groups(that, "y", y, "x", x, groups); }

void ScaleGroups::check(Check& that) const {
  that.same("x", x);
  that.operand("factor", factor, wide_of(x.dtype), factor.shape);
  that.that(factor.count() > 0 && x.rows() % factor.count() == 0,
            "factor must hold one number for each of equal parts of the rows, found factor " + Check::text(factor) +
                ", x " + Check::text(x));
}

void run(const CpuContext& cpu, const SumGroups& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    sum_groups(cpu, op.y.as<T>(), op.x.as<T>(), op.y.count(), op.groups, static_cast<Wide<T>>(op.factor));
  });
}

void run(const CpuContext& cpu, const AddGroups& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    add_groups(cpu, op.y.as<T>(), op.x.as<T>(), op.x.count(), op.groups, static_cast<Wide<T>>(op.factor),
               op.accumulate);
  });
}

void run(const CpuContext& cpu, const ScaleGroups& op) {
  const std::int64_t groups = op.factor.count(), size = op.x.count() / groups;
  dispatch(op.x.dtype, [&]<class T>() {
    for (std::int64_t g = 0; g < groups; ++g) {
      const Wide<T> factor = op.factor.as<Wide<T>>()[g];
      if (factor == 1) continue;
      T* x = op.x.as<T>() + g * size;
      parallel_ranges(cpu, size, 1, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) x[i] = round_to<T>(factor * to_float(x[i]));
      });
    }
  });
}

}  // namespace omni
