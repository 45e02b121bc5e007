#pragma once
// cuBLASLt, loaded when it is first used. Linked, its tables would cost every program 140 MB and a tenth of a second at
// its start, also where no GPU is asked for.

#include <cublasLt.h>

#include <stdexcept>
#include <string>

namespace omni {

// Its functions, under their own names.
struct CublasLt {
#define OMNI_FUNCTION(name) decltype(&::name) name
  OMNI_FUNCTION(cublasLtCreate);
  OMNI_FUNCTION(cublasLtDestroy);
  OMNI_FUNCTION(cublasLtGetStatusString);
  OMNI_FUNCTION(cublasLtMatmul);
  OMNI_FUNCTION(cublasLtMatmulAlgoGetHeuristic);
  OMNI_FUNCTION(cublasLtMatmulDescCreate);
  OMNI_FUNCTION(cublasLtMatmulDescDestroy);
  OMNI_FUNCTION(cublasLtMatmulDescSetAttribute);
  OMNI_FUNCTION(cublasLtMatmulPreferenceCreate);
  OMNI_FUNCTION(cublasLtMatmulPreferenceDestroy);
  OMNI_FUNCTION(cublasLtMatmulPreferenceSetAttribute);
  OMNI_FUNCTION(cublasLtMatrixLayoutCreate);
  OMNI_FUNCTION(cublasLtMatrixLayoutDestroy);
#undef OMNI_FUNCTION
};

// Throws std::runtime_error if the library of this build's version is not there.
const CublasLt& cublas_lt();

inline void check_blas(cublasStatus_t status, const char* call, const char* op) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuda: ") + call + " (" + op +
                             "): " + cublas_lt().cublasLtGetStatusString(status));
}

}  // namespace omni
