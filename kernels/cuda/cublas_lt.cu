#include <dlfcn.h>

#include "kernels/cuda/cublas_lt.cuh"

namespace omni {
namespace {

CublasLt load() {
  const std::string file = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(std::string("cuda: cuBLASLt is needed: ") + dlerror());
  CublasLt out;
  const auto find = [&](auto& function, const char* name) {
    void* address = dlsym(library, name);
    if (address == nullptr) throw std::runtime_error("cuda: " + file + " has no " + name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
  };
#define OMNI_FIND(name) find(out.name, #name)
  OMNI_FIND(cublasLtCreate);
  OMNI_FIND(cublasLtDestroy);
  OMNI_FIND(cublasLtGetStatusString);
  OMNI_FIND(cublasLtMatmul);
  OMNI_FIND(cublasLtMatmulAlgoGetHeuristic);
  OMNI_FIND(cublasLtMatmulDescCreate);
  OMNI_FIND(cublasLtMatmulDescDestroy);
  OMNI_FIND(cublasLtMatmulDescSetAttribute);
  OMNI_FIND(cublasLtMatmulPreferenceCreate);
  OMNI_FIND(cublasLtMatmulPreferenceDestroy);
  OMNI_FIND(cublasLtMatmulPreferenceSetAttribute);
  OMNI_FIND(cublasLtMatrixLayoutCreate);
  OMNI_FIND(cublasLtMatrixLayoutDestroy);
#undef OMNI_FIND
  return out;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt functions = load();
  return functions;
}

}  // namespace omni
