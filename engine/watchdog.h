#pragma once
// A limit in time for calls that have none of their own.

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace omni {

// While it exists, something is being done. If that takes longer than `seconds`, this process says on standard error
// what did not happen ("MPI_Init: the other processes did not come") and ends with exit status 1. For libraries that
// wait for other processes for ever and cannot be interrupted.
class Watchdog {
 public:
  Watchdog(std::string what, double seconds);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace omni
