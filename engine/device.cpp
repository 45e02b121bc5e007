#include "engine/device.h"

#include <omp.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <stdexcept>

namespace omni {
namespace {

[[noreturn]] void fail(const std::string& name) {
  throw std::runtime_error("device: expected cpu, cuda or cuda:N, found \"" + name + "\"");
}

// The N of "cuda:N".
int index_of(const std::string& name, int local_rank) {
  const std::string_view rest = std::string_view(name).substr(4);
  if (rest.empty()) return local_rank % std::max(cuda_device_count(), 1);
  int index = 0;
  const char* end = rest.data() + rest.size();
  const auto parsed = std::from_chars(rest.data() + 1, end, index);
  if (rest[0] != ':' || parsed.ec != std::errc() || parsed.ptr != end || index < 0) fail(name);
  return index;
}

}  // namespace

Device::Device(int threads, std::shared_ptr<CudaDevice> cuda, bool executes)
    : cpu_{threads > 0 ? threads : omp_get_max_threads(), &workspace_}, cuda_(std::move(cuda)), executes_(executes) {
  omp_set_num_threads(cpu_.threads);
}

Device Device::named(const std::string& name, int threads, int local_rank) {
  if (name == "cpu") return Device(threads, nullptr);
  if (!name.starts_with("cuda")) fail(name);
  [[maybe_unused]] const int index = index_of(name, local_rank);
  if constexpr (kHasCuda) return Device(threads, std::make_shared<CudaDevice>(index));
  throw std::runtime_error("device: this build has no CUDA kernels (it was made without nvcc), use device=cpu");
}

void Device::copy(const View& to, const ConstView& from) {
  if (to.bytes() != from.bytes())
    throw std::invalid_argument("copy of " + Check::text(from) + " to " + Check::text(to));
  const auto bytes = static_cast<std::size_t>(to.bytes());
  if constexpr (kHasCuda) {
    if (cuda_) return cuda_->copy(to.data, to.place, from.data, from.place, bytes);
  }
  if (bytes != 0) std::memcpy(to.data, from.data, bytes);
}

ConstView Device::on_host(const ConstView& view, std::vector<OwnedTensor>& memory) {
  if (view.place == Place::host) return view;
  memory.emplace_back(view.dtype, view.shape);
  copy(memory.back(), view);
  return memory.back();
}

void Device::run_recurring(Recurring& recurring, const std::function<void()>& body) {
  if constexpr (kHasCuda) {
    if (cuda_ && !is_watched() && recurring.warm_) {
      // A recording holds addresses of the workspace.
      const std::uint64_t generation = cuda_->context().workspace->generation();
      if (!recurring.recording_ || recurring.generation_ != generation) {
        recurring.recording_ = cuda_->record(body);
        recurring.generation_ = generation;
      }
      cuda_->replay(recurring.recording_);
      return;
    }
  }
  body();
  recurring.warm_ = true;
}

void Device::synchronize() {
  if constexpr (kHasCuda) {
    if (cuda_) cuda_->synchronize();
  }
}

const CudaContext* Device::cuda_context() const { return cuda_ ? &cuda_->context() : nullptr; }

std::string Device::name() const { return cuda_ ? cuda_->name() : "cpu"; }

}  // namespace omni
