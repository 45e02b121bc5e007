#include "trainers/loader.h"

#include <stdexcept>

namespace omni {

Loader::Loader(const BatchSource& source, std::int64_t first, std::int64_t end, int workers)
    : source_(source), delivered_(first), claimed_(first), end_(end), ahead_(2 * workers) {
  for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wanted_.wait(lock, [&] { return stop_ || claimed_ == end_ || claimed_ < delivered_ + ahead_; });
    if (stop_ || claimed_ == end_) return;
    const std::int64_t position = claimed_++;
    lock.unlock();
    Result result;
    try {
      result.batch = source_.batch(position);
    } catch (...) {
      result.error = std::current_exception();
    }
    lock.lock();
    results_.emplace(position, std::move(result));
    made_.notify_all();
  }
}

Batch Loader::next() {
  if (delivered_ == end_) throw std::logic_error("no batch is left");
  if (workers_.empty()) return source_.batch(delivered_++);
  std::unique_lock lock(mutex_);
  made_.wait(lock, [&] { return results_.contains(delivered_); });
  Result result = std::move(results_.extract(delivered_++).mapped());
  lock.unlock();
  wanted_.notify_all();
  if (result.error) std::rethrow_exception(result.error);
  return std::move(result.batch);
}

}  // namespace omni
