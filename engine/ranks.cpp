#include "engine/ranks.h"

#include <mpi.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/gradient_channel.h"
#include "engine/watchdog.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kPatience = 600;  // seconds: a checkpoint on a slow disk is waited for

// Seconds in which the processes must have found each other.
double start_patience() {
  const char* text = std::getenv("OMNI_START_SECONDS");
  if (text == nullptr) return 60;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*text == '\0' || *end != '\0' || !(seconds > 0))
    throw std::invalid_argument("OMNI_START_SECONDS: expected a positive number, found \"" + std::string(text) + "\"");
  return seconds;
}

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw std::runtime_error(std::string("MPI: ") + call + ": " + text);
}

// Waits for a request; throws after `seconds`.
void wait(MPI_Request request, const std::string& what, double seconds) {
  const auto begin = Clock::now();
  for (int done = 0;;) {
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done) return;
    const std::chrono::duration<double> waited = Clock::now() - begin;
    if (waited.count() > seconds)
      throw std::runtime_error(what + ": the other processes did not come within " +
                               std::to_string(static_cast<int>(seconds)) + " s; one may have died or hang");
    if (waited.count() < 1e-3)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// A thread that sums tensors one after the other while the backward pass goes on.
class MpiChannel : public GradientChannel {
 public:
  MpiChannel(MPI_Comm world, std::string who) : who_(std::move(who)) {
    check_mpi(MPI_Comm_dup(world, &processes_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(processes_, MPI_ERRORS_RETURN);
    thread_ = std::thread([this] { work(); });
  }
  ~MpiChannel() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
    MPI_Comm_free(&processes_);
  }

  void begin_sum(const View& view) override {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(view);
    changed_.notify_all();
  }
  void finish_sums() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return error_ || (waiting_.empty() && !busy_); });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      const View view = waiting_.front();
      waiting_.pop_front();
      busy_ = true;
      lock.unlock();
      std::exception_ptr error;
      try {
        sum(view);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      busy_ = false;
      error_ = error_ ? error_ : error;
      changed_.notify_all();
    }
  }

  void sum(const View& view) {
    constexpr std::int64_t kMost = std::int64_t{1} << 30;  // MPI counts in int
    for (std::int64_t first = 0; first < view.count(); first += kMost) {
      MPI_Request request;
      check_mpi(MPI_Iallreduce(MPI_IN_PLACE, view.as<float>() + first,
                               static_cast<int>(std::min(kMost, view.count() - first)), MPI_FLOAT, MPI_SUM, processes_,
                               &request),
                "MPI_Iallreduce");
      wait(request, who_ + ": sum of gradients", kPatience);
    }
  }

  std::string who_;
  MPI_Comm processes_ = MPI_COMM_NULL;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<View> waiting_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace

class Ranks::Connection {
 public:
  Connection() {
    const Watchdog watchdog("MPI: start-up: the other processes that mpirun was to start did not come",
                            start_patience());
    int given = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &given), "MPI_Init_thread");
    if (given < MPI_THREAD_MULTIPLE)
      throw std::runtime_error("MPI: expected a library that several threads may call, found one without");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm here;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &here);
    MPI_Comm_rank(here, &local_rank);
    MPI_Comm_free(&here);
  }
  ~Connection() {
    channel.reset();
    // After an exception the others may not come to the end, and MPI_Finalize would wait for them.
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
  }

  std::string who() const { return "process " + std::to_string(rank) + " of " + std::to_string(size); }

  void sum(std::span<double> values, const std::string& purpose, double seconds) const {
    MPI_Request request;
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_DOUBLE, MPI_SUM,
                             MPI_COMM_WORLD, &request),
              "MPI_Iallreduce");
    wait(request, who() + ": " + purpose, seconds);
  }
  void broadcast(void* data, std::size_t bytes, double seconds) const {
    MPI_Request request;
    check_mpi(MPI_Ibcast(data, static_cast<int>(bytes), MPI_BYTE, 0, MPI_COMM_WORLD, &request), "MPI_Ibcast");
    wait(request, who() + ": start-up", seconds);
  }

  int rank = 0, size = 1, local_rank = 0;
  std::unique_ptr<GradientChannel> channel;
};

Ranks::Ranks() = default;
Ranks::Ranks(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Ranks::Ranks(Ranks&&) noexcept = default;
Ranks& Ranks::operator=(Ranks&&) noexcept = default;
Ranks::~Ranks() = default;

Ranks Ranks::join() {
  // What Open MPI's mpirun and those of MPICH and Slurm tell their children.
  for (const char* size : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"})
    if (std::getenv(size) != nullptr) return Ranks(std::make_unique<Connection>());
  return Ranks();
}

int Ranks::rank() const { return connection_ ? connection_->rank : 0; }
int Ranks::size() const { return connection_ ? connection_->size : 1; }
int Ranks::local_rank() const { return connection_ ? connection_->local_rank : 0; }

void Ranks::sum(std::span<double> values, const char* purpose) {
  if (!alone()) connection_->sum(values, purpose, kPatience);
}

void Ranks::barrier(const char* purpose) {
  double nothing = 0;
  sum({&nothing, 1}, purpose);
}

void Ranks::connect(Device& device) {
  if (alone()) return;
  const double seconds = start_patience();
  double ranks[] = {static_cast<double>(rank())};
  connection_->sum(ranks, "start-up test", seconds);
  const auto broadcast = [&](void* data, std::size_t bytes) { connection_->broadcast(data, bytes, seconds); };
  if (device.is_cpu())
    connection_->channel = std::make_unique<MpiChannel>(MPI_COMM_WORLD, connection_->who());
  else if constexpr (kHasCuda) {
    const Watchdog watchdog(connection_->who() + ": NCCL: start-up: the other processes did not come", seconds);
    connection_->channel = make_nccl_channel(device, rank(), size(), seconds, broadcast);
  }

  // The sum of 1, 2, ... size, in every element.
  constexpr std::int64_t kCount = 1000;
  const std::vector<float> mine(kCount, static_cast<float>(rank() + 1));
  std::vector<float> found(kCount);
  const OwnedTensor tensor(DType::f32, {kCount}, device.place());
  device.copy(tensor, view_of(mine.data(), {kCount}));
  begin_sum(tensor);
  finish_sums();
  device.copy(view_of(found.data(), {kCount}), tensor);
  const float expected = static_cast<float>(size() * (size() + 1)) / 2;
  for (const float value : found)
    if (value != expected)
      throw std::runtime_error(connection_->who() + ": start-up test: the sum over all processes should be " +
                               std::to_string(expected) + ", found " + std::to_string(value));
}

void Ranks::begin_sum(const View& view) {
  if (!alone() && view.count() > 0) connection_->channel->begin_sum(view);
}

void Ranks::finish_sums() {
  if (!alone()) connection_->channel->finish_sums();
}

void Ranks::abort(int status) {
  if (!alone()) MPI_Abort(MPI_COMM_WORLD, status);
}

}  // namespace omni
