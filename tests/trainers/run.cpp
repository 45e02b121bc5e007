// Whole runs: equal bytes, resume, damage, and errors.

#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "models/text_loss.h"
#include "models/thinker_model.h"
#include "tests/trainers/small_run.h"
#include "trainers/checkpoint.h"
#include "trainers/plan.h"
#include "trainers/thinker_trainer.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;
using Files = std::map<std::string, std::string>;

// Any rates will do here; measuring them takes longer than the run.
TrainOptions options(bool resume) {
  TrainOptions out;
  out.resume = resume;
  out.limits = MachineLimits{1e11, 1e11, 1e10};
  return out;
}

int train(const Recipe& recipe, bool resume = false, std::string* text = nullptr) {
  std::ostringstream out;
  const int signal = train_thinker(recipe, options(resume), out);
  if (text != nullptr) *text = out.str();
  return signal;
}

// metrics.jsonl without the timings.
std::string metrics_of(const Recipe& recipe) {
  std::istringstream in(read_text_file(recipe.output / "metrics.jsonl"));
  std::string out;
  for (std::string line; std::getline(in, line);) {
    auto object = nlohmann::ordered_json::parse(line);
    for (const char* timing : {"seconds", "data_seconds", "tokens_per_s", "fraction_of_peak"}) object.erase(timing);
    out += object.dump() + "\n";
  }
  return out;
}

void require_same_run(const Recipe& a, const Recipe& b) {
  REQUIRE(files_of(a.output / "model") == files_of(b.output / "model"));
  REQUIRE(files_of(a.output / "checkpoint") == files_of(b.output / "checkpoint"));
  REQUIRE(metrics_of(a) == metrics_of(b));
}

// Stops a run after some step by a limit on its steps that is not part of the recipe: a signal that is already pending.
void train_and_stop(const Recipe& recipe, bool resume) {
  struct Raise : std::stringbuf {  // the progress line of the first step raises the signal
    std::streamsize xsputn(const char* text, std::streamsize count) override {
      if (std::string_view(text, static_cast<std::size_t>(count)).find("step ") == 0) std::raise(SIGTERM);
      return count;
    }
  } buffer;
  std::ostream out(&buffer);
  REQUIRE(train_thinker(recipe, options(resume), out) == SIGTERM);
}

TEST_CASE("the loss falls, and equal seeds give equal bytes with any number of workers") {
  const SmallRun small;
  for (const std::string dtype : {"f32", "bf16"}) {
    const Recipe a = small.recipe("a" + dtype, {"dtype=" + dtype, "steps=18"});
    const Recipe b = small.recipe("b" + dtype, {"dtype=" + dtype, "steps=18", "workers=4"});
    const Recipe c = small.recipe("c" + dtype, {"dtype=" + dtype, "steps=18", "workers=0", "seed=43"});
    REQUIRE(train(a) == 0);
    REQUIRE(train(b) == 0);
    REQUIRE(train(c) == 0);
    require_same_run(a, b);
    REQUIRE(files_of(a.output / "model") != files_of(c.output / "model"));
    std::istringstream lines(metrics_of(a));
    std::vector<double> losses;
    std::string line;
    for (std::getline(lines, line); std::getline(lines, line);)
      losses.push_back(nlohmann::json::parse(line).at("loss"));
    REQUIRE(losses.size() == 18);
    REQUIRE(losses.back() < losses.front() - 0.2);
    REQUIRE(std::abs(losses.front() - std::log(320)) < 0.3);
    Device device = Device::cpu(1);
    REQUIRE_NOTHROW(ThinkerModel::load(a.output / "model", DType::f32, Purpose::inference, device));
  }
}

TEST_CASE("a stopped and resumed run ends with the bytes of an undisturbed one") {
  const SmallRun small;
  for (const std::vector<std::string>& overrides : {std::vector<std::string>{"dtype=bf16"},
                                                    {"stage=sft", "data=" + (small.folder / "sft.jsonl").string(),
                                                     "accumulation_steps=4", "config.use_moe=true"}}) {
    const Recipe whole = small.recipe("whole", overrides), parts = small.recipe("parts", overrides);
    REQUIRE(train(whole) == 0);
    train_and_stop(parts, false);
    train_and_stop(parts, true);  // one step more
    // A later line, cut off in the middle, as a kill between two checkpoints leaves it.
    std::ofstream(parts.output / "metrics.jsonl", std::ios::app) << "{\"step\":3,\"loss\":0}\n{\"step\":4,\"lo";
    REQUIRE(train(parts, true) == 0);
    require_same_run(whole, parts);
    std::string text;
    REQUIRE(train(parts, true, &text) == 0);
    REQUIRE_THAT(text, Contains("This run is finished (step 12)"));
    std::filesystem::remove_all(whole.output);
    std::filesystem::remove_all(parts.output);
  }
}

// The run that the next test kills: a process of its own, this program with this hidden test alone.
const std::vector<std::string> kKilledRun = {"steps=40", "save_interval=1"};

TEST_CASE("child of the kill test", "[.child]") {
  const char* folder = std::getenv("OMNI_KILL_TEST_FOLDER");
  REQUIRE(folder != nullptr);
  REQUIRE(train(small_recipe(folder, "killed", kKilledRun), true) == 0);
}

pid_t start_child(const std::filesystem::path& folder) {
  const std::string variable = "OMNI_KILL_TEST_FOLDER=" + folder.string();
  std::vector<char*> environment = {const_cast<char*>(variable.c_str()), nullptr};
  char program[] = "test", name[] = "child of the kill test", flag[] = "--out", null[] = "/dev/null";
  char* arguments[] = {program, name, flag, null, nullptr};
  pid_t child = 0;
  REQUIRE(::posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments, environment.data()) == 0);
  return child;
}

TEST_CASE("a run that is killed again and again ends with the bytes of an undisturbed one") {
  const SmallRun small;
  const Recipe whole = small.recipe("whole", kKilledRun), killed = small.recipe("killed", kKilledRun);
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(train(whole) == 0);
  const auto whole_time = std::chrono::steady_clock::now() - begin;
  Philox random(5, RandomStream::test);
  for (int kill = 0; kill < 4; ++kill) {
    const pid_t child = start_child(small.folder.path());
    std::this_thread::sleep_for(whole_time * random.uniform() / 2);
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE((WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0)));
  }
  REQUIRE(train(killed, true) == 0);
  require_same_run(whole, killed);
}

TEST_CASE("an output folder is neither overwritten nor resumed by accident") {
  const SmallRun small;
  const Recipe recipe = small.recipe("out");
  std::string text;
  REQUIRE(train(recipe, true, &text) == 0);  // nothing to resume yet
  REQUIRE_THAT(text, Contains("holds no checkpoint: starting at step 1"));
  const Files before = files_of(recipe.output / "checkpoint");
  REQUIRE_THROWS_WITH(train(recipe), Contains("--resume") && Contains("overwrite=true"));
  REQUIRE(files_of(recipe.output / "checkpoint") == before);
  REQUIRE(train(small.recipe("out", {"overwrite=true"})) == 0);
  REQUIRE(files_of(recipe.output / "checkpoint") == before);

  train_and_stop(small.recipe("out", {"overwrite=true"}), false);
  REQUIRE_THROWS_WITH(train(small.recipe("out", {"seed=7", "batch_size=5"}), true),
                      Contains("seed: was 42, is 7") && Contains("batch_size: was 4, is 5"));
  write_text_file(recipe.data[0], pretrain_lines(24));
  REQUIRE_THROWS_WITH(train(recipe, true), Contains("data: was") && Contains("24 samples"));
}

TEST_CASE("a damaged checkpoint is found out and the one before it is taken") {
  const SmallRun small;
  const Recipe whole = small.recipe("whole"), recipe = small.recipe("out");
  REQUIRE(train(whole) == 0);
  train_and_stop(recipe, false);
  train_and_stop(recipe, true);
  Philox random(1, RandomStream::test);
  const auto folder = checkpoint_of(recipe.output);
  for (const auto& [name, text] : files_of(folder)) {
    for (int round = 0; round < 8; ++round) {
      CAPTURE(name, round);
      std::string broken = text;
      if (round % 2 == 0)
        broken.resize(random.below(text.size()));
      else
        broken[random.below(text.size())] ^= static_cast<char>(1 << random.below(8));
      std::filesystem::remove(folder / name);  // not into the file that the previous checkpoint may share
      write_text_file(folder / name, broken);
      std::ostringstream out;
      const auto found = find_checkpoint(recipe.output, out);
      REQUIRE(found);
      // White space of state.json is the only thing that may differ unnoticed.
      if (found->path == folder) {
        REQUIRE(name == "state.json");
        REQUIRE(nlohmann::json::parse(broken) == nlohmann::json::parse(text));
        continue;
      }
      REQUIRE(found->path == previous_checkpoint_of(recipe.output));
      REQUIRE(found->state.step == 1);
      REQUIRE_THAT(out.str(), Contains(name) && Contains("going back to"));
    }
    write_text_file(folder / name, text);
  }
  write_text_file(folder / "model.safetensors", "short");
  REQUIRE(train(recipe, true) == 0);  // from the previous one
  require_same_run(whole, recipe);

  for (const auto& path : {folder, previous_checkpoint_of(recipe.output)})
    write_text_file(path / "optimizer.safetensors", "");
  REQUIRE_THROWS_WITH(train(recipe, true), Contains("no usable checkpoint") && Contains("optimizer.safetensors"));
}

// Files of this process can't grow beyond some size while an object lives, as if the disk were full.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FullDisk(FullDisk&&) = delete;

 private:
  rlimit before_;
};

TEST_CASE("a full disk is a clear error and costs no checkpoint") {
  const SmallRun small;
  const Recipe whole = small.recipe("whole"), recipe = small.recipe("out");
  REQUIRE(train(whole) == 0);
  train_and_stop(recipe, false);
  const Files before = files_of(checkpoint_of(recipe.output));
  {
    const FullDisk full(20000);  // the metrics fit, the weights do not
    REQUIRE_THROWS_WITH(train(recipe, true),
                        Contains("step 4: the checkpoint could not be saved") && Contains("File too large"));
  }
  REQUIRE(files_of(checkpoint_of(recipe.output)) == before);
  REQUIRE(train(recipe, true) == 0);
  require_same_run(whole, recipe);
}

TEST_CASE("a loss that is not finite stops the run and names the samples") {
  const SmallRun small;
  REQUIRE_THROWS_WITH(train(small.recipe("out", {"learning_rate=1000", "grad_clip=0", "steps=200"})),
                      Contains("nan") && Contains("was not applied") && Contains("pretrain.jsonl:"));
}

TEST_CASE("--plan writes nothing, and its numbers are those of the run") {
  const SmallRun small;
  const Recipe recipe = small.recipe("out");
  std::ostringstream out;
  TrainOptions plan;
  plan.plan = true;
  REQUIRE(train_thinker(recipe, plan, out) == 0);
  REQUIRE_FALSE(std::filesystem::exists(recipe.output));
  REQUIRE_THAT(out.str(), Contains("12 steps of 1 x 4 samples of up to 48 tokens (6 steps per epoch)"));
  REQUIRE_THAT(out.str(), Contains("of them where gradients come later"));
  out.str("");
  REQUIRE(train_thinker(small.recipe("out", {"accumulation_steps=2"}), plan, out) == 0);
  REQUIRE_THAT(out.str(), !Contains("where gradients come later"));

  Device device = Device::cpu(2);
  for (const char* json : {R"({"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 320})",
                           R"({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 320, "use_moe": true})",
                           R"({"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                               "num_key_value_heads": 2, "vocab_size": 500, "tie_word_embeddings": false})"}) {
    const ThinkerConfig config = parse_config(json, "config");
    const auto model = ThinkerModel::create(config, DType::f32, 1, device);
    CHECK(count_parameters(config).all == model->store.parameter_count());
    // The memory of a real step, within the coarseness of an estimate.
    constexpr std::int64_t kRows = 16, kLength = 256;
    OwnedTensor ids(DType::i64, {kRows, kLength});
    Tape tape(device);
    tape.backward(text_loss(tape, model->thinker, ids, ids).loss);
    const auto real = static_cast<double>(tape.activation_bytes() + tape.gradient_bytes());
    const auto estimate =
        static_cast<double>(activation_bytes(config, DType::f32, kRows, kLength, kRows * (kLength - 1), false));
    CAPTURE(json, real / (1 << 20), estimate / (1 << 20));
    CHECK(estimate > 0.5 * (real - 2 * (64 << 20)));  // arena and pool reserve chunks of 64 MiB
    CHECK(estimate < 2 * real);
  }
}

TEST_CASE("impossible combinations are refused before the first step") {
  const SmallRun small;
  REQUIRE_THROWS_WITH(train(small.recipe("a", {"max_seq_len=200"})), Contains("max_position_embeddings 128"));
  REQUIRE_THROWS_WITH(train(small.recipe("b", {"config.vocab_size=100"})),
                      Contains("more than the model's vocab_size 100"));
  REQUIRE_THROWS_WITH(train(small.recipe("c", {"tokenizer=/nonexistent"})), Contains("/nonexistent"));
  REQUIRE_THROWS_WITH(train(small.recipe("d", {"device=cuda:99"})), Contains("CUDA"));
  REQUIRE_THROWS_WITH(train(small.recipe("e", {"config=", "model=/nonexistent"})), Contains("/nonexistent"));
  REQUIRE_THROWS_WITH(train(small.recipe("f", {"output=/dev/null/x"})), Contains("/dev/null/x"));
}

}  // namespace
}  // namespace omni
