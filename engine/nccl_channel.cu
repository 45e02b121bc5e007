// Sums over GPUs by NCCL, on a stream of their own.

#include <cuda_runtime.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include "engine/gradient_channel.h"

#ifdef OMNI_HAS_NCCL
#include <nccl.h>
#endif

namespace omni {

#ifdef OMNI_HAS_NCCL
namespace {

void check_nccl(ncclResult_t status, const char* call) {
  if (status != ncclSuccess) throw std::runtime_error(std::string("NCCL: ") + call + ": " + ncclGetErrorString(status));
}

class NcclChannel : public GradientChannel {
 public:
  NcclChannel(Device& device, int rank, int size, double seconds, const Broadcast& broadcast)
      : compute_(static_cast<cudaStream_t>(device.cuda_context()->stream)), seconds_(seconds) {
    ncclUniqueId id{};
    if (rank == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    broadcast(&id, sizeof id);
    check_nccl(ncclCommInitRank(&processes_, size, id, rank), "ncclCommInitRank");
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~NcclChannel() override {
    cudaStreamSynchronize(stream_);
    ncclCommDestroy(processes_);
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }

  void begin_sum(const View& view) override {
    check_cuda(cudaEventRecord(event_, compute_), "cudaEventRecord", "sum of gradients");
    check_cuda(cudaStreamWaitEvent(stream_, event_, 0), "cudaStreamWaitEvent", "sum of gradients");
    check_nccl(ncclAllReduce(view.data, view.data, static_cast<std::size_t>(view.count()), ncclFloat, ncclSum,
                             processes_, stream_),
               "ncclAllReduce");
  }

  void finish_sums() override {
    check_cuda(cudaEventRecord(event_, stream_), "cudaEventRecord", "sum of gradients");
    check_cuda(cudaStreamWaitEvent(compute_, event_, 0), "cudaStreamWaitEvent", "sum of gradients");
    if (!tested_) wait_for_first_sum();
  }

 private:
  // The start-up test: NCCL hangs rather than fails if a process is missing.
  void wait_for_first_sum() {
    const auto begin = std::chrono::steady_clock::now();
    while (cudaStreamQuery(stream_) == cudaErrorNotReady) {
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
      if (waited.count() > seconds_)
        throw std::runtime_error("NCCL: start-up test: no sum within " + std::to_string(static_cast<int>(seconds_)) +
                                 " s; NCCL_DEBUG=INFO tells what it tries");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", "start-up test");
    tested_ = true;
  }

  cudaStream_t compute_, stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  ncclComm_t processes_ = nullptr;
  double seconds_;
  bool tested_ = false;
};

}  // namespace

std::unique_ptr<GradientChannel> make_nccl_channel(Device& device, int rank, int size, double seconds,
                                                   const Broadcast& broadcast) {
  return std::make_unique<NcclChannel>(device, rank, size, seconds, broadcast);
}

#else

std::unique_ptr<GradientChannel> make_nccl_channel(Device&, int, int, double, const Broadcast&) {
  throw std::runtime_error("several GPUs need NCCL, which this build was made without (libnccl-dev)");
}

#endif

}  // namespace omni
