#pragma once
// How gradients are summed over processes beside the backward pass: one channel for the CPU (MPI), one for GPUs (NCCL).

#include <functional>
#include <memory>

#include "engine/device.h"

namespace omni {

class GradientChannel {
 public:
  virtual ~GradientChannel() = default;
  virtual void begin_sum(const View& view) = 0;
  virtual void finish_sums() = 0;
};

// Sends `bytes` bytes from the first process to all others.
using Broadcast = std::function<void(void* data, std::size_t bytes)>;

// NCCL between the GPUs of `size` processes, of which this is number `rank`. `seconds` limits the wait for the others.
// Throws std::runtime_error in a build without NCCL.
std::unique_ptr<GradientChannel> make_nccl_channel(Device& device, int rank, int size, double seconds,
                                                   const Broadcast& broadcast);

}  // namespace omni
