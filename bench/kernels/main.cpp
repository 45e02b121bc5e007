// bench_kernels: every instruction on the shapes of the 0.1B model, on the CPU or a GPU.

#include <CLI/CLI.hpp>
#include <iostream>
#include <utility>

#include "bench/kernels/harness.h"
#include "engine/philox.h"

namespace omni::bench {
namespace {

struct Entry {
  std::string name;
  std::function<void(Bench&, benchmark::State&)> body;
  RunsOn runs_on;
};

std::vector<Entry> registered;

// Normal values; another `number`, other values.
OwnedTensor random_values(DType dtype, const Shape& shape, std::uint64_t number) {
  OwnedTensor values(dtype, shape);
  Philox random(1, RandomStream::test, number);
  dispatch(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < shape.count(); ++i) values.as<T>()[i] = round_to<T>(random.normal());
  });
  return values;
}

}  // namespace

View Bench::tensor(DType dtype, const Shape& shape) {
  if (random_) return copy_of(random_values(dtype, shape, memory_.size()));
  memory_.emplace_back(dtype, shape, device_.place());
  device_.run(Fill{.y = memory_.back(), .value = 0.5});
  return memory_.back();
}

View Bench::integers(const Shape& shape, std::int64_t limit) {
  const OwnedTensor values(DType::i64, shape);
  for (std::int64_t i = 0; i < shape.count(); ++i) values.as<std::int64_t>()[i] = i * 7919 % limit;
  return copy_of(values);
}

View Bench::copy_of(const OwnedTensor& values) {
  memory_.emplace_back(values.view().dtype, values.view().shape, device_.place());
  device_.copy(memory_.back(), values);
  return memory_.back();
}

void Bench::report(benchmark::State& state, const Work& work) const {
  using benchmark::Counter;
  const auto per_second = [](double amount) { return Counter(amount, Counter::kIsIterationInvariantRate); };
  state.counters["GB/s"] = per_second(static_cast<double>(work.bytes) / 1e9);
  state.counters["GFLOP/s"] = per_second(static_cast<double>(work.flops) / 1e9);
  state.counters["of_limit"] = per_second(limits_.seconds(work));  // the least time over the time it took
  // For a roofline plot: FLOPs per byte.
  state.counters["intensity"] = static_cast<double>(work.flops) / static_cast<double>(work.bytes);
}

void add(const std::string& name, std::function<void(Bench&, benchmark::State&)> body, RunsOn runs_on) {
  registered.push_back({name, std::move(body), runs_on});
}

void add_dtypes(const std::string& name, const std::function<void(Bench&, benchmark::State&, DType)>& body) {
  for (const DType dtype : {DType::f32, DType::bf16})
    add(name + "/" + name_of(dtype), [=](Bench& bench, benchmark::State& state) { body(bench, state, dtype); });
}

namespace {

void run_all(const std::string& device, const std::string& filter, const std::string& json, int repeats) {
  Bench bench(device);
  add_row_benches();
  add_matmul_benches();
  add_attention_benches();
  add_moe_benches();
  add_omni_benches();
  add_optimizer_benches();
  for (const auto& [name, body, runs_on] : registered) {
    if (runs_on == (bench.device().is_cpu() ? RunsOn::gpu : RunsOn::cpu)) continue;
    benchmark::RegisterBenchmark(name.c_str(),
                                 [&bench, body = body](benchmark::State& state) {
                                   body(bench, state);
                                   bench.clear();
                                 })
        ->UseManualTime()
        ->Iterations(repeats)
        ->Unit(benchmark::kMicrosecond);
  }
  std::vector<std::string> words{"bench_kernels", "--benchmark_filter=" + filter, "--benchmark_counters_tabular=true"};
  if (!json.empty()) {
    words.push_back("--benchmark_out=" + json);
    words.push_back("--benchmark_out_format=json");
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int count = static_cast<int>(arguments.size());
  const MachineLimits& limits = bench.limits();
  benchmark::AddCustomContext("device", bench.device().name());
  benchmark::AddCustomContext("f32_flops_per_s", std::to_string(limits.f32_flops_per_s));
  benchmark::AddCustomContext("bf16_flops_per_s", std::to_string(limits.bf16_flops_per_s));
  benchmark::AddCustomContext("bytes_per_s", std::to_string(limits.bytes_per_s));
  benchmark::Initialize(&count, arguments.data());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}

}  // namespace
}  // namespace omni::bench

int main(int argc, char** argv) {
  CLI::App app(
      "Times every instruction on the shapes of the 0.1B model (4 x 512 tokens): time, GB/s, GFLOP/s, and the fraction "
      "of the device's limit; on a GPU, beside cuDNN and cuBLAS where the build found them.\nscripts/plot_roofline.py "
      "turns the JSON into a table and a picture.\n\n"
      "Examples:\n  bench_kernels\n  bench_kernels --device cuda --json cuda.json\n  bench_kernels --filter "
      "'attention.*bf16'");
  std::string device = "cpu", filter = ".*", json;
  int repeats = 30;
  app.add_option("--device", device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--filter", filter, "regular expression: only benches whose name matches")->capture_default_str();
  app.add_option("--json", json, "write the results to this file");
  app.add_option("--repeats", repeats, "executions per bench")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    omni::bench::run_all(device, filter, json, repeats);
  } catch (const std::exception& error) {
    std::cerr << "bench_kernels: " << error.what() << '\n';
    return 1;
  }
}
