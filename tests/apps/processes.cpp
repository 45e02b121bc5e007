// Several processes that train one model, started by mpirun as a user starts them.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/trainers/small_omni_run.h"
#include "tests/trainers/small_run.h"
#include "trainers/checkpoint.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

// A small recipe as a file, and the commands that run it.
class ProcessRun {
 public:
  // `folder` holds what the recipe names.
  ProcessRun(std::string program, fs::path folder, const std::string& recipe)
      : program_(std::move(program)), folder_(std::move(folder)) {
    write_text_file(path("small.yaml"), recipe);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // `processes` of them, 0 for a call without mpirun. `beside`: what else mpirun starts.
  std::string command(int processes, const std::string& arguments, const std::string& beside = "") const {
    // Root may not use mpirun unasked; a test machine may have fewer cores than processes; Open MPI keeps memory for
    // ever, which the address sanitizer would report.
    const std::string start =
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=detect_leaks=0 "
        "exec mpirun --oversubscribe -np " +
        std::to_string(processes) + " ";
    return (processes > 0 ? start : "exec ") + std::string(OMNI_BINARY_DIR) + "/" + program_ + " " +
           path("small.yaml") + " " + arguments + beside + " > " + path("log") + " 2>&1";
  }
  int call(int processes, const std::string& arguments) const {
    const int status = std::system(command(processes, arguments).c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string log() const { return read_text_file(path("log")); }

  std::vector<nlohmann::json> steps(const std::string& output) const {
    std::ifstream in(path(output + "/metrics.jsonl"));
    std::vector<nlohmann::json> out;
    std::string line;
    std::getline(in, line);  // the header
    while (std::getline(in, line)) out.push_back(nlohmann::json::parse(line));
    return out;
  }

 private:
  std::string program_;
  fs::path folder_;
};

ProcessRun thinker_run(const SmallRun& small) {
  const std::string folder = small.folder.path().string();
  return {"train_thinker", folder,
          "stage: pretrain\n"
          "config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,\n"
          "         vocab_size: 320, intermediate_size: 48, max_position_embeddings: 128}\n"
          "tokenizer: " +
              folder + "/tokenizer\ndata: " + folder +
              "/pretrain.jsonl\nbatch_size: 5\naccumulation_steps: 2\nmax_seq_len: 48\nthreads: 1\nworkers: 1\n"};
}

void require_same_curve(const std::vector<nlohmann::json>& actual, const std::vector<nlohmann::json>& expected) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    for (const char* counted : {"step", "tokens", "labelled"})
      REQUIRE(actual[i].at(counted) == expected[i].at(counted));
    for (const char* computed : {"loss", "grad_norm"}) {
      const double value = expected[i].at(computed);
      REQUIRE(std::abs(actual[i].at(computed).get<double>() - value) <= 1e-5 * value);
    }
  }
}

// The child processes of a process, ascending.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> out;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream status(entry.path() / "status");
    std::string line;
    pid_t pid = 0, its_parent = 0;
    while (std::getline(status, line)) {
      std::sscanf(line.c_str(), "Pid: %d", &pid);
      std::sscanf(line.c_str(), "PPid: %d", &its_parent);
    }
    if (its_parent == parent) out.push_back(pid);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

TEST_CASE("two and three processes follow the curve of one, twice with the same bits") {
  const SmallRun small;
  const ProcessRun run = thinker_run(small);
  REQUIRE(run.call(0, "steps=8 output=" + run.path("one")) == 0);
  const auto expected = run.steps("one");
  REQUIRE(expected.size() == 8);
  for (const int processes : {2, 3}) {
    CAPTURE(processes);
    const std::string name = std::to_string(processes);
    REQUIRE(run.call(processes, "steps=8 output=" + run.path(name)) == 0);
    require_same_curve(run.steps(name), expected);
  }
  REQUIRE(run.call(2, "steps=8 output=" + run.path("again")) == 0);
  REQUIRE(read_text_file(run.path("2/model/model.safetensors")) ==
          read_text_file(run.path("again/model/model.safetensors")));
}

TEST_CASE("two processes train the omni model as one does, twice with the same bits") {
  const SmallOmniRun small;
  const ProcessRun run("train_talker", small.folder.path(), omni_yaml(small.folder.path(), "unused"));
  const std::string settings = "steps=6 batch_size=4 output=";
  REQUIRE(run.call(0, settings + run.path("one")) == 0);
  REQUIRE(run.call(2, settings + run.path("two")) == 0);
  REQUIRE(run.steps("one").size() == 6);
  require_same_curve(run.steps("two"), run.steps("one"));
  REQUIRE(run.call(2, settings + run.path("again")) == 0);
  REQUIRE(read_text_file(run.path("two/model/model.safetensors")) ==
          read_text_file(run.path("again/model/model.safetensors")));
}

TEST_CASE("a dead process ends all of them; resumed, they end with the bytes of an undisturbed run") {
  const SmallRun small;
  const ProcessRun run = thinker_run(small);
  const std::string settings = "steps=200 save_interval=2 output=";
  const pid_t mpirun = fork();
  if (mpirun == 0) {
    execl("/bin/sh", "sh", "-c", run.command(2, settings + run.path("out")).c_str(), nullptr);
    _exit(127);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const fs::path state = checkpoint_of(run.path("out")) / "state.json";
  while (!fs::exists(state) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(fs::exists(state));
  const std::vector<pid_t> processes = children_of(mpirun);
  REQUIRE(processes.size() == 2);
  REQUIRE(kill(processes.back(), SIGKILL) == 0);
  int status = 0;
  REQUIRE(waitpid(mpirun, &status, 0) == mpirun);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) != 0);
  REQUIRE_THAT(run.log(), Catch::Contains("exited on signal 9"));

  REQUIRE(run.call(2, settings + run.path("out") + " --resume") == 0);
  REQUIRE_THAT(run.log(), Catch::Contains("Continuing after step"));
  REQUIRE(run.call(2, settings + run.path("whole")) == 0);
  REQUIRE(read_text_file(run.path("out/model/model.safetensors")) ==
          read_text_file(run.path("whole/model/model.safetensors")));
}

TEST_CASE("processes that do not find each other end within the time limit, and say so") {
  const SmallRun small;
  const ProcessRun run = thinker_run(small);
  // One never comes; one comes, and then does not take part in the test of the start.
  for (const std::string& other : {std::string("sleep 60"), std::string(OMNI_BINARY_DIR) + "/idle_process"}) {
    CAPTURE(other);
    const auto begin = std::chrono::steady_clock::now();
    const std::string command = run.command(1, "steps=8 output=" + run.path("out"), " : -np 1 " + other);
    const int status = std::system(("OMNI_START_SECONDS=2 " + command).c_str());
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) != 0);
    REQUIRE_THAT(run.log(), Catch::Contains("start-up") && Catch::Contains("did not come within 2 s"));
    REQUIRE(std::chrono::steady_clock::now() - begin < std::chrono::seconds(30));
  }
  REQUIRE(std::system(("OMNI_START_SECONDS=soon " + run.command(2, "output=" + run.path("out"))).c_str()) != 0);
  REQUIRE_THAT(run.log(), Catch::Contains("OMNI_START_SECONDS: expected a positive number, found \"soon\""));
}

TEST_CASE("an error of one process is told and ends all of them") {
  const SmallRun small;
  const ProcessRun run = thinker_run(small);
  REQUIRE(run.call(2, "steps=8 no_such_key=1 output=" + run.path("out")) == 1);
  REQUIRE_THAT(run.log(), Catch::Contains("no_such_key"));
}

}  // namespace omni
