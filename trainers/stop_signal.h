#pragma once
// SIGINT and SIGTERM as a wish to stop.

#include <csignal>

namespace omni {

// While an object lives, the first SIGINT or SIGTERM is only noted; the second ends the process at once with 128 + its
// number.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(StopSignal&&) = delete;

  int received() const;  // the signal's number, 0 for none

 private:
  struct sigaction interrupt_, terminate_;  // what was in force before
};

}  // namespace omni
