// train_step: seconds per training step, or tokens per second of decoding, of the 0.1B Thinker; one JSON line on
// standard output. bench/versus_pytorch.py runs it beside the same model in PyTorch.

#include <omp.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "autograd/optimizer.h"
#include "engine/machine.h"
#include "kernels/vector.h"
#include "models/generate.h"
#include "models/text_loss.h"
#include "trainers/dataset.h"
#include "trainers/samples.h"

namespace {

using namespace omni;

struct Options {
  std::string device = "cpu", dtype = "f32", sft, tokenizer = "assets/tokenizer";
  std::int64_t max_seq_len = 768;
  std::int64_t batch = 4, time = 512, steps = 5, warm_up = -1, decode = 0, hidden = 768, layers = 8;
  bool profile = false, moe = false, recompute = false, on_request = false;
};

// With --on-request: waits until a line is asked for, so that several programs can take their steps in turns.
void await_request(const Options& options) {
  std::string line;
  if (options.on_request && !std::getline(std::cin, line)) throw std::runtime_error("--on-request: input has ended");
}

double seconds_of(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

nlohmann::json summary(std::vector<double> seconds, double tokens) {
  std::sort(seconds.begin(), seconds.end());
  return {{"median_s", seconds[seconds.size() / 2]},
          {"min_s", seconds[0]},
          {"tokens_per_s", tokens / seconds[0]},
          {"peak_rss_mb", peak_megabytes()}};
}

// Bytes per second at which all threads together read memory that no cache holds, eight streams each: the limit of
// decoding.
double read_rate() {
  constexpr std::int64_t kStreams = 8, kLanes = Lanes<float>::count;
  const OwnedTensor block(DType::f32, {std::int64_t{64} << 20});  // 256 MiB
  const std::int64_t threads = omp_get_max_threads(),
                     stream = block.view().count() / threads / kStreams / kLanes * kLanes;
  std::vector<float> sums(static_cast<std::size_t>(threads));
  double best = 1e30;
  for (int i = 0; i < 5; ++i)
    best = std::min(best, seconds_of([&] {
#pragma omp parallel
                      {
                        const float* mine = block.as<float>() + omp_get_thread_num() * kStreams * stream;
                        Vector<float> sum[kStreams] = {};
                        for (std::int64_t j = 0; j < stream; j += kLanes)
                          for (std::int64_t s = 0; s < kStreams; ++s)
                            sum[s] += load_vector<float>(mine + s * stream + j);
                        for (std::int64_t s = 1; s < kStreams; ++s) sum[0] += sum[s];
                        sums[static_cast<std::size_t>(omp_get_thread_num())] = sum_lanes<float>(sum[0]);
                      }
                    }));
  // The sums are zero; asking keeps the loop from being removed.
  return sums[0] == 0 ? static_cast<double>(threads * kStreams * stream * 4) / best : 0;
}

struct Batches {
  OwnedTensor ids, labels;  // i64 [count, batch, time]
  std::int64_t count() const { return ids.view().shape[0]; }
  ConstView at(const OwnedTensor& all, std::int64_t i) const {
    const Shape shape{all.view().shape[1], all.view().shape[2]};
    return view_of(static_cast<const std::int64_t*>(all.as<std::int64_t>()) + i % count() * shape.count(), shape);
  }
};

Batches random_batches(const Options& options, std::int64_t vocabulary) {
  Batches out{OwnedTensor(DType::i64, {1, options.batch, options.time}),
              OwnedTensor(DType::i64, {1, options.batch, options.time})};
  Philox random(1, RandomStream::test);
  for (std::int64_t i = 0; i < options.batch * options.time; ++i)
    out.ids.as<std::int64_t>()[i] = out.labels.as<std::int64_t>()[i] =
        static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  return out;
}

// Conversations in the order of the file, padded to max_seq_len as the original does.
Batches sft_batches(const Options& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const Dataset dataset(Stage::sft, {options.sft}, 1);
  const SampleAssembler assembler(tokenizer, options.max_seq_len);
  const std::int64_t count = options.steps;
  if (dataset.size() < count * options.batch)
    throw std::runtime_error(options.sft + ": expected " + std::to_string(count * options.batch) +
                             " conversations, found " + std::to_string(dataset.size()));
  const Shape shape{count, options.batch, options.max_seq_len};
  Batches out{OwnedTensor(DType::i64, shape), OwnedTensor(DType::i64, shape)};
  for (std::int64_t row = 0; row < count * options.batch; ++row) {
    const Sample sample = assembler.sft(parse_conversation(dataset.line(row)), {.system = -1, .remove_think = true});
    std::copy(sample.ids.begin(), sample.ids.end(), out.ids.as<std::int64_t>() + row * options.max_seq_len);
    std::copy(sample.labels.begin(), sample.labels.end(), out.labels.as<std::int64_t>() + row * options.max_seq_len);
  }
  return out;
}

nlohmann::json train(const Options& options, const ThinkerConfig& config, Device& device, DType dtype) {
  const auto model = ThinkerModel::create(config, dtype, 1, device);
  AdamWOptimizer optimizer(model->store);
  const Batches batches = options.sft.empty() ? random_batches(options, config.vocab_size) : sft_batches(options);
  Tape tape(device);
  tape.set_recompute(options.recompute);
  std::vector<double> seconds;
  std::uint64_t allocations = 0;
  const std::int64_t warm_up = options.warm_up >= 0 ? options.warm_up : batches.count() + 1;
  for (std::int64_t step = 0; step < warm_up + options.steps; ++step) {
    if (step == warm_up) {
      allocations = tape.allocations();
      if (options.profile) device.profiler().set_mode(Profiler::Mode::totals);
    }
    if (step >= warm_up) await_request(options);
    const double elapsed = seconds_of([&] {
      const TextLoss loss =
          text_loss(tape, model->thinker, batches.at(batches.ids, step), batches.at(batches.labels, step));
      tape.backward(loss.loss);
      optimizer.step(1e-4, 1.0);
      tape.reset();
      device.synchronize();
    });
    if (step < warm_up) continue;
    seconds.push_back(elapsed);
    if (options.on_request) std::cout << elapsed << std::endl;
  }
  nlohmann::json out = summary(seconds, static_cast<double>(batches.ids.view().shape[1] * batches.ids.view().shape[2]));
  out["activation_mb"] = static_cast<double>(tape.activation_bytes()) / 1e6;
  out["gradient_pool_mb"] = static_cast<double>(tape.gradient_bytes()) / 1e6;
  out["allocations_after_warm_up"] = tape.allocations() - allocations;
  return out;
}

nlohmann::json decode(const Options& options, const ThinkerConfig& config, Device& device, DType dtype) {
  const auto trained = ThinkerModel::create(config, DType::f32, 1, device);
  const auto folder = std::filesystem::temp_directory_path() / ("omni-bench-" + std::to_string(getpid()));
  trained->save(folder, dtype);
  const auto model = ThinkerModel::load(folder, dtype, Purpose::inference, device);
  std::filesystem::remove_all(folder);
  TextSequence sequence(device, *model, 16 + options.decode + 1);
  std::vector<std::int32_t> prompt(16, 100);
  View logits = sequence.show(prompt);
  Sampler sampler(device, {.greedy = true});
  Philox random(0, RandomStream::sampling);
  std::vector<double> seconds;
  if (options.profile) device.profiler().set_mode(Profiler::Mode::totals);
  for (std::int64_t i = 0; i < options.decode; ++i)
    seconds.push_back(seconds_of([&] { logits = sequence.append(sampler.next(logits, sequence.ids(), random)); }));
  double sum = 0;
  for (const double s : seconds) sum += s;
  const double tokens_per_s = static_cast<double>(options.decode) / sum;
  std::int64_t bytes = 0;  // of weights; a token reads each of them once
  for (const Parameter& parameter : model->store.parameters())
    bytes += parameter.packed ? parameter.packed.bytes() : parameter.value.bytes();
  nlohmann::json out = summary(seconds, 1);
  out["tokens_per_s"] = tokens_per_s;
  out["read_limit_gb_per_s"] = read_rate() / 1e9;
  out["weight_gb_per_s"] = static_cast<double>(bytes) * tokens_per_s / 1e9;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times training steps or decoding of the Thinker on random weights. Prints one JSON line.");
  Options options;
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", options.dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}))->capture_default_str();
  app.add_option("--batch", options.batch, "sequences in a batch of random ids")->capture_default_str();
  app.add_option("--time", options.time, "their length; every position is labelled")->capture_default_str();
  app.add_option("--sft", options.sft, "conversations (JSON lines) instead of random ids");
  app.add_option("--tokenizer", options.tokenizer, "their tokenizer's directory")->capture_default_str();
  app.add_option("--max-seq-len", options.max_seq_len, "what they are padded to")->capture_default_str();
  app.add_option("--steps", options.steps, "timed steps")->capture_default_str();
  app.add_option("--warm-up", options.warm_up, "steps before them; by default every shape once and one more");
  app.add_option("--decode", options.decode, "decode this many tokens instead of training")->capture_default_str();
  app.add_option("--hidden", options.hidden, "hidden_size")->capture_default_str();
  app.add_option("--layers", options.layers, "num_hidden_layers")->capture_default_str();
  app.add_flag("--recompute", options.recompute, "make the largest activations again in the backward pass");
  app.add_flag("--moe", options.moe, "four experts instead of dense feed-forward blocks");
  app.add_flag("--on-request", options.on_request,
               "wait for a line on standard input before each timed step, and answer with its seconds");
  app.add_flag("--profile", options.profile, "print the table of instructions to standard error");
  CLI11_PARSE(app, argc, argv);
  Device device = Device::named(options.device);
  ThinkerConfig config;
  config.hidden_size = options.hidden;
  config.head_dim = options.hidden / config.num_attention_heads;
  config.intermediate_size = config.moe_intermediate_size = ThinkerConfig::default_intermediate_size(options.hidden);
  config.num_hidden_layers = options.layers;
  config.use_moe = options.moe;
  const DType dtype = dtype_named(options.dtype);
  nlohmann::json out =
      options.decode > 0 ? decode(options, config, device, dtype) : train(options, config, device, dtype);
  out["dtype"] = options.dtype;
  std::cout << out.dump() << '\n';
  if (options.profile) device.profiler().report(std::cerr, measure_machine(device));
}
