#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>

#include "engine/cuda_device.h"
#include "kernels/cuda/cublas_lt.cuh"
#include "kernels/cuda/runtime.h"

namespace omni {
namespace {

cudaStream_t stream(void* handle) { return static_cast<cudaStream_t>(handle); }
cudaEvent_t event(void* handle) { return static_cast<cudaEvent_t>(handle); }

void* new_stream() {
  cudaStream_t out;
  check_cuda(cudaStreamCreateWithFlags(&out, cudaStreamNonBlocking), "cudaStreamCreate");
  return out;
}
void* new_event() {
  cudaEvent_t out;
  check_cuda(cudaEventCreateWithFlags(&out, cudaEventDisableTiming), "cudaEventCreate");
  return out;
}

std::string describe(const CudaFault& fault) {
  if (fault.kind == CudaFault::sampling_logit) return "sampling: a logit is not a number; the weights may be damaged";
  const char* what = fault.kind == CudaFault::embedding_id ? "embedding: an id is " : "cross_entropy: a target is ";
  return what + std::to_string(fault.value) + ", expected 0 .. " + std::to_string(fault.limit - 1);
}

}  // namespace

CudaDevice::CudaDevice(int index) {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (index < 0 || index >= count)
    throw std::runtime_error("device: cuda:" + std::to_string(index) + " is not there, found " + std::to_string(count) +
                             " CUDA devices");
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  if (properties.major < 8)
    throw std::runtime_error("device: " + std::string(properties.name) + " has compute capability " +
                             std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                             ", expected 8.0 or newer");
  name_ = "cuda:" + std::to_string(index) + " " + properties.name;
  fault_ = Buffer(sizeof(CudaFault), MemoryKind::pinned);
  context_.stream = new_stream();
  context_.workspace = &workspace_;
  context_.fault = new (fault_.data()) CudaFault{};
  context_.multiprocessors = properties.multiProcessorCount;
  cublasLtHandle_t blas;
  check_blas(cublas_lt().cublasLtCreate(&blas), "cublasLtCreate", "device");
  context_.blas = blas;
  copy_stream_ = new_stream();
  computed_ = new_event();
  for (Staging& staging : staging_) staging.copied = new_event();
}

CudaDevice::~CudaDevice() {
  cudaDeviceSynchronize();
  for (Staging& staging : staging_) cudaEventDestroy(event(staging.copied));
  cudaEventDestroy(event(computed_));
  cublas_lt().cublasLtDestroy(static_cast<cublasLtHandle_t>(context_.blas));
  cudaStreamDestroy(stream(copy_stream_));
  cudaStreamDestroy(stream(context_.stream));
}

void CudaDevice::upload(void* to, const void* from, std::size_t bytes) {
  Staging& staging = staging_[next_staging_];
  next_staging_ = (next_staging_ + 1) % staging_.size();
  check_cuda(cudaEventSynchronize(event(staging.copied)), "cudaEventSynchronize", "upload");
  if (staging.memory.bytes() < bytes) staging.memory = Buffer(bytes, MemoryKind::pinned);
  std::memcpy(staging.memory.data(), from, bytes);
  // What the instructions so far read from the target must not change under them.
  check_cuda(cudaEventRecord(event(computed_), stream(context_.stream)), "cudaEventRecord", "upload");
  check_cuda(cudaStreamWaitEvent(stream(copy_stream_), event(computed_), 0), "cudaStreamWaitEvent", "upload");
  check_cuda(cudaMemcpyAsync(to, staging.memory.data(), bytes, cudaMemcpyHostToDevice, stream(copy_stream_)),
             "cudaMemcpyAsync", "upload");
  check_cuda(cudaEventRecord(event(staging.copied), stream(copy_stream_)), "cudaEventRecord", "upload");
  check_cuda(cudaStreamWaitEvent(stream(context_.stream), event(staging.copied), 0), "cudaStreamWaitEvent", "upload");
}

void CudaDevice::copy(void* to, Place to_place, const void* from, Place from_place, std::size_t bytes) {
  if (bytes == 0) return;
  if (from_place == Place::host && to_place != Place::host) return upload(to, from, bytes);
  if (to_place == Place::host && from_place == Place::host) {
    std::memcpy(to, from, bytes);
    return;
  }
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream(context_.stream)), "cudaMemcpyAsync", "copy");
  if (to_place == Place::host) synchronize();
}

std::shared_ptr<void> CudaDevice::record(const std::function<void()>& body) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream(context_.stream), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream(context_.stream), &graph);  // leaves the stream usable
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream(context_.stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  return {executable, [](void* handle) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle)); }};
}

void CudaDevice::replay(const std::shared_ptr<void>& recording) {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording.get()), stream(context_.stream)),
             "cudaGraphLaunch");
}

void CudaDevice::synchronize() {
  check_cuda(cudaStreamSynchronize(stream(context_.stream)), "cudaStreamSynchronize");
  if (context_.fault->kind == CudaFault::none) return;
  const std::string message = describe(*context_.fault);
  *context_.fault = {};
  throw std::invalid_argument(message);
}

}  // namespace omni
