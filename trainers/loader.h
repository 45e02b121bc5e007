#pragma once
// Prepares batches ahead of the training loop.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "trainers/batches.h"

namespace omni {

// Delivers the batches of positions first, first + 1, ... end - 1 in this order, whatever the number of worker threads.
// With no workers, next() makes the batch itself.
class Loader {
 public:
  Loader(const BatchSource& source, std::int64_t first, std::int64_t end, int workers);
  ~Loader();  // stops the workers
  Loader(Loader&&) = delete;

  // Waits for the batch. An exception of the worker that made it is thrown here.
  Batch next();

 private:
  struct Result {
    Batch batch;
    std::exception_ptr error;
  };
  void work();

  const BatchSource& source_;
  std::int64_t delivered_, claimed_, end_, ahead_;
  bool stop_ = false;
  std::mutex mutex_;
  std::condition_variable made_, wanted_;
  std::map<std::int64_t, Result> results_;
  std::vector<std::jthread> workers_;
};

}  // namespace omni
