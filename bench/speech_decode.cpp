// speech_decode: steps per second of speaking (eight codes each, and at first a text token) of the 0.1B omni model with
// random weights; one JSON line on standard output. bench/versus_pytorch_omni.py runs it beside PyTorch.

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "engine/machine.h"
#include "models/omni_model.h"
#include "models/speech_generation.h"

namespace {

using namespace omni;

struct Options {
  std::string device = "cpu", dtype = "bf16";
  std::int64_t steps = 128, text_steps = -1, rows = 1, rounds = 3;
  bool moe = false, profile = false;
};

// The model in the file that inference loads.
std::unique_ptr<OmniModel> random_model(const Options& options, Device& device) {
  OmniConfig config;
  config.thinker.use_moe = options.moe;
  const auto folder = std::filesystem::temp_directory_path() / ("omni-speech-" + std::to_string(getpid()));
  OmniModel::create(config, DType::f32, 1, device)->save(folder, DType::bf16);
  const DType dtype = dtype_named(options.dtype);
  auto model = OmniModel::load(folder, dtype, Purpose::inference, device);
  std::filesystem::remove_all(folder);
  return model;
}

// Random weights end text and speech at random: logits are changed so that the text ends in step `text_steps` and the
// codes never.
SpeechGenerator::LogitsHook course(const Options& options, Device& device, const OmniConfig& config) {
  return [&options, &device, &config](std::int64_t row, std::int64_t step, const SpeechRequest&,
                                      const OmniSequences::Logits& logits) {
    const float end = step == options.text_steps ? 1e4f : -1e4f;
    device.copy(slice(logits.text, row * config.thinker.vocab_size + config.thinker.eos_token_id, {1}),
                view_of(&end, {1}));
    const std::vector<float> never(static_cast<std::size_t>(config.audio_vocab_size - config.first_reserved_code()),
                                   -1e4f);
    for (std::int64_t q = 0; q < kCodebooks; ++q) {
      const std::int64_t first = (q * options.rows + row) * config.audio_vocab_size + config.first_reserved_code();
      const Shape shape{static_cast<std::int64_t>(never.size())};
      device.copy(slice(logits.audio, first, shape), view_of(never.data(), shape));
    }
  };
}

// Steps per second of all rows together, the prompt not counted.
double rate(const Options& options, Device& device, OmniModel& model) {
  constexpr std::int64_t kPrompt = 16;
  SpeechGenerator generator(device, model, options.rows, kPrompt + options.steps + 8);
  generator.set_logits_hook(course(options, device, model.config));
  for (std::int64_t row = 0; row < options.rows; ++row) {
    SpeechRequest request;
    request.prompt.ids.assign(kPrompt, 100);
    request.settings.max_new_tokens = options.steps + 4;
    request.settings.seed = static_cast<std::uint64_t>(row);
    generator.begin(std::move(request));
  }
  for (int i = 0; i < 3; ++i) generator.step();  // warm-up
  std::int64_t steps = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (; steps < options.steps && !generator.is_idle(); ++steps) generator.step();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(steps) / elapsed.count();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times speaking with the 0.1B omni model on random weights. Prints one JSON line.");
  Options options;
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", options.dtype, "format of the weights")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--steps", options.steps, "timed steps")->capture_default_str();
  app.add_option("--text-steps", options.text_steps, "steps after which the text ends; default: never");
  app.add_option("--rows", options.rows, "conversations side by side")->capture_default_str();
  app.add_option("--rounds", options.rounds, "repetitions, of which the best counts")->capture_default_str();
  app.add_flag("--moe", options.moe, "four experts instead of dense feed-forward blocks");
  app.add_flag("--profile", options.profile, "print the table of instructions to standard error");
  CLI11_PARSE(app, argc, argv);
  Device device = Device::named(options.device);
  const auto model = random_model(options, device);
  double best = 0;
  for (std::int64_t i = 0; i < options.rounds; ++i) {
    if (options.profile && i + 1 == options.rounds) device.profiler().set_mode(Profiler::Mode::totals);
    best = std::max(best, rate(options, device, *model));
  }
  std::cout << nlohmann::json{{"steps_per_s", best},
                              {"conversations", options.rows},
                              {"text_steps", options.text_steps < 0 ? options.steps : options.text_steps},
                              {"real_time_factor", best / kFramesPerSecond},
                              {"dtype", options.dtype}}
                   .dump()
            << '\n';
  if (options.profile) device.profiler().report(std::cerr, measure_machine(device));
}
