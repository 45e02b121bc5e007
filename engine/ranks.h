#pragma once
// Several processes that train one model, each on its own rows of every batch. MPI starts and connects them; gradients
// on GPUs travel by NCCL.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "engine/device.h"

namespace omni {

// All methods but rank() and size() are collective: every process must call them, in the same order. What waits for the
// others does so for a limited time and then throws std::runtime_error that says for what; the program should then
// abort(). With one process they do nothing.
class Ranks {
 public:
  // This process alone.
  Ranks();
  // The processes that mpirun started, or this one alone if it was not started by mpirun.
  static Ranks join();
  ~Ranks();
  Ranks(Ranks&&) noexcept;
  Ranks& operator=(Ranks&&) noexcept;

  int rank() const;
  int size() const;
  bool is_root() const { return rank() == 0; }
  bool alone() const { return size() == 1; }
  int local_rank() const;  // among the processes on this machine

  // Replaces each number by its sum over all processes.
  void sum(std::span<double> values, const char* purpose);
  void barrier(const char* purpose);

  // Prepares sums on a device and tries one: throws if the sum is wrong. Processes that do not find each other, here or
  // in join(), within 60 seconds (or OMNI_START_SECONDS of the environment) end with a message.
  void connect(Device& device);
  // Begins to replace a tensor (f32) on the device by its sum over all processes, beside the instructions that follow.
  void begin_sum(const View& view);
  // Instructions after this see all sums that have begun.
  void finish_sums();

  // Ends all processes at once with this exit status. Returns only if this process is alone.
  void abort(int status);

 private:
  class Connection;
  explicit Ranks(std::unique_ptr<Connection> connection);
  std::unique_ptr<Connection> connection_;  // null: alone
};

}  // namespace omni
