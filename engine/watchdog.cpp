#include "engine/watchdog.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace omni {

Watchdog::Watchdog(std::string what, double seconds)
    : thread_([this, what = std::move(what), seconds] {
        std::unique_lock lock(mutex_);
        if (changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return done_; })) return;
        std::fprintf(stderr, "error: %s within %g s\n", what.c_str(), seconds);
        std::fflush(stderr);
        std::_Exit(EXIT_FAILURE);
      }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

}  // namespace omni
