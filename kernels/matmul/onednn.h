#pragma once
// Matrix products by oneDNN, versions 2 and 3.

#include "kernels/matmul/matmul.h"

namespace omni {

void onednn_matmul(const CpuContext& cpu, const Matmul& op);

}  // namespace omni
