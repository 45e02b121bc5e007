// roofline: what a training step and a decoding step of the 0.1B Thinker must at least cost on a GPU, op by op. A floor
// computed from bytes and FLOPs, not a measurement.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "autograd/optimizer.h"
#include "engine/files.h"
#include "engine/machine.h"
#include "models/generate.h"
#include "models/text_loss.h"

namespace {

using namespace omni;

struct Options {
  std::string gpu = "RTX 3090", dtype = "bf16", json;
  std::int64_t batch = 32, time = 512, context = 512;
  bool moe = false, recompute = false;
};

// The instructions of one kind in a step.
struct Row {
  std::string instruction;
  std::int64_t calls = 0;
  double bytes = 0, flops = 0, floor = 0;  // floor in seconds: each execution is bound by arithmetic or by memory
};

std::vector<Row> rows_of(const Profiler& profiler, const MachineLimits& limits) {
  std::map<std::string, Row> sums;
  for (const Profiler::Entry& entry : profiler.executions()) {
    Row& row = sums[entry.instruction];
    row.instruction = entry.instruction;
    ++row.calls;
    row.bytes += static_cast<double>(entry.work.bytes);
    row.flops += static_cast<double>(entry.work.flops);
    row.floor += limits.seconds(entry.work);
  }
  std::vector<Row> out;
  for (const auto& [name, row] : sums) out.push_back(row);
  std::sort(out.begin(), out.end(), [](const Row& a, const Row& b) { return a.floor > b.floor; });
  return out;
}

// A GPU by name, or from a JSON file {"f32_tflops": ..., "bf16_tflops": ..., "gb_per_s": ...}.
MachineLimits limits_of(const std::string& gpu) {
  if (const auto known = gpu_limits(gpu)) return *known;
  if (!std::filesystem::exists(gpu))
    throw std::runtime_error("--gpu: expected RTX 3090, RTX 4090, A100, H100, H200 or a JSON file, found \"" + gpu +
                             "\"");
  try {
    const auto json = nlohmann::json::parse(read_text_file(gpu));
    return {json.at("f32_tflops").get<double>() * 1e12, json.at("bf16_tflops").get<double>() * 1e12,
            json.at("gb_per_s").get<double>() * 1e9};
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(gpu + ": expected numbers f32_tflops, bf16_tflops and gb_per_s: " + error.what());
  }
}

void training_step(Device& device, const ThinkerConfig& config, DType dtype, const Options& options) {
  const auto model = ThinkerModel::create(config, dtype, 1, device);
  AdamWOptimizer optimizer(model->store);
  const OwnedTensor ids(DType::i64, {options.batch, options.time});  // zeros are labels like any other
  Tape tape(device);
  tape.set_recompute(options.recompute);
  device.profiler().set_mode(Profiler::Mode::list);
  tape.backward(text_loss(tape, model->thinker, ids, ids).loss);
  optimizer.step(1e-4, 1);
}

void decoding_step(Device& device, const ThinkerConfig& config, DType dtype, const Options& options) {
  const auto model = ThinkerModel::create(config, dtype, 1, device);
  TextSequence sequence(device, *model, options.context + 1);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(options.context), 1);
  sequence.show(ids);
  device.profiler().set_mode(Profiler::Mode::list);
  sequence.append(1);
}

nlohmann::ordered_json print(const std::string& title, const std::vector<Row>& rows, double tokens) {
  Row sum{.instruction = "all"};
  for (const Row& row : rows) {
    sum.calls += row.calls;
    sum.bytes += row.bytes;
    sum.flops += row.flops;
    sum.floor += row.floor;
  }
  std::printf("\n%s\n%-32s%7s%12s%12s%12s%8s\n", title.c_str(), "instruction", "calls", "MB", "GFLOP", "floor us",
              "share");
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  const auto line = [&](const Row& row) {
    std::printf("%-32s%7lld%12.1f%12.2f%12.1f%7.1f%%\n", row.instruction.c_str(), static_cast<long long>(row.calls),
                row.bytes / 1e6, row.flops / 1e9, row.floor * 1e6, 100 * row.floor / sum.floor);
    json.push_back({{"instruction", row.instruction},
                    {"calls", row.calls},
                    {"bytes", row.bytes},
                    {"flops", row.flops},
                    {"floor_us", row.floor * 1e6}});
  };
  for (const Row& row : rows) line(row);
  line(sum);
  std::printf("floor: %.0f tokens/s\n", tokens / sum.floor);
  return json;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Prints bytes, FLOPs and the least time of a training step and of a decoding step of the 0.1B Thinker, by op, on "
      "a "
      "GPU of known speed.\nA floor, not a measurement: launches, latencies and caches are left out.\n\n"
      "Examples:\n  roofline --gpu A100\n  roofline --gpu RTX\\ 4090 --moe --batch 16\n  roofline --gpu mine.json");
  Options options;
  app.add_option("--gpu", options.gpu,
                 "RTX 3090, RTX 4090, A100, H100, H200, or a JSON file with f32_tflops, "
                 "bf16_tflops (dense, fp32 accumulation) and gb_per_s")
      ->capture_default_str();
  app.add_option("--dtype", options.dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}))->capture_default_str();
  app.add_option("--batch", options.batch, "sequences in a training step")->capture_default_str();
  app.add_option("--time", options.time, "their length")->capture_default_str();
  app.add_option("--context", options.context, "positions in the cache of the decoding step")->capture_default_str();
  app.add_flag("--moe", options.moe, "four experts, one per token");
  app.add_flag("--recompute", options.recompute, "make the largest activations again in the backward pass");
  app.add_option("--json", options.json, "write the figures to this file as well");
  CLI11_PARSE(app, argc, argv);
  try {
    const MachineLimits limits = limits_of(options.gpu);
    const DType dtype = dtype_named(options.dtype);
    ThinkerConfig config;
    config.use_moe = options.moe;
    std::printf("%s: f32 %.1f TFLOP/s, bf16 %.1f TFLOP/s, memory %.0f GB/s. Times are floors, not measurements.\n",
                options.gpu.c_str(), limits.f32_flops_per_s / 1e12, limits.bf16_flops_per_s / 1e12,
                limits.bytes_per_s / 1e9);
    nlohmann::ordered_json json{{"gpu", options.gpu}, {"dtype", options.dtype}};
    {
      Device device = Device::dry();
      training_step(device, config, dtype, options);
      json["training_step"] =
          print("training step, " + std::to_string(options.batch) + " x " + std::to_string(options.time) + " tokens, " +
                    options.dtype,
                rows_of(device.profiler(), limits), static_cast<double>(options.batch * options.time));
    }
    {
      Device device = Device::dry();
      decoding_step(device, config, dtype, options);
      json["decoding_step"] =
          print("decoding step, one sequence, " + std::to_string(options.context) + " positions in the cache",
                rows_of(device.profiler(), limits), 1);
    }
    if (!options.json.empty()) write_text_file(options.json, json.dump(2) + "\n");
  } catch (const std::exception& error) {
    std::cerr << "roofline: " << error.what() << '\n';
    return 1;
  }
}
