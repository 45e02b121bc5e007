#include "kernels/gather_rows/gather_rows.h"

#include <algorithm>

namespace omni {
namespace {

template <class T>
void gather_rows(T* y, const T* x, const std::int64_t* source, std::int64_t count, std::int64_t width) {
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    if (source[i] < 0)
      std::fill_n(y + i * width, width, T{});
    else
      std::copy_n(x + source[i] * width, width, y + i * width);
  }
}

}  // namespace

void run(const CpuContext&, const GatherRows& op) {
  dispatch(op.y.dtype, [&]<class T>() {
    gather_rows(op.y.as<T>(), op.x.as<T>(), op.source.as<std::int64_t>(), op.source.count(), op.x.width());
  });
}

}  // namespace omni
