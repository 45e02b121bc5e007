#pragma once
// The CUDA side of Device: one GPU, its streams and library handle. Free of CUDA's headers.

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "kernels/instruction.h"

namespace omni {

// All work goes to one stream, in the order of the calls. Host memory that is copied to the GPU is first put into one
// of two pinned buffers, so that the caller may overwrite it at once, and travels on a stream of its own.
class CudaDevice {
 public:
  // The GPU with this number. Throws std::runtime_error if there is none.
  explicit CudaDevice(int index);
  ~CudaDevice();
  CudaDevice(CudaDevice&&) = delete;  // the context points into it

  const CudaContext& context() const { return context_; }
  const std::string& name() const { return name_; }

  void copy(void* to, Place to_place, const void* from, Place from_place, std::size_t bytes);
  // Notes the instructions that `body` runs instead of running them, as a CUDA graph. They must be warm: nothing may be
  // allocated, copied from or to the host, or waited for.
  std::shared_ptr<void> record(const std::function<void()>& body);
  // Runs a recording, in order with all else.
  void replay(const std::shared_ptr<void>& recording);
  // Waits for the stream. Throws std::invalid_argument if a kernel found a value that it cannot use.
  void synchronize();

 private:
  struct Staging {
    Buffer memory;
    void* copied = nullptr;  // cudaEvent_t: the copy out of this buffer is done
  };

  void upload(void* to, const void* from, std::size_t bytes);

  std::string name_;
  CudaContext context_;
  Workspace workspace_{MemoryKind::cuda};
  Buffer fault_;
  void* copy_stream_ = nullptr;
  void* computed_ = nullptr;  // cudaEvent_t: the instructions so far are done
  std::array<Staging, 2> staging_;
  std::size_t next_staging_ = 0;
};

}  // namespace omni
