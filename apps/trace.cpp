// trace: one forward (and backward) pass on given inputs, every named tensor written to a file.

#include <CLI/CLI.hpp>
#include <iomanip>
#include <iostream>

#include "models/forward_trace.h"

namespace {

using namespace omni;

struct Options {
  std::string model, input, output, dtype = "f32", device = "cpu";
  int threads = 0;
  bool gradients = false, list = false;
};

void print_list(const Profiler& profiler) {
  std::cout << std::left << std::setw(28) << "instruction" << std::right << std::setw(12) << "time us" << std::setw(14)
            << "bytes" << std::setw(16) << "FLOPs"
            << "  operands\n";
  for (const Profiler::Entry& entry : profiler.executions())
    std::cout << std::left << std::setw(28) << entry.instruction << std::right << std::setw(12) << std::fixed
              << std::setprecision(1) << entry.seconds * 1e6 << std::setw(14) << entry.work.bytes << std::setw(16)
              << entry.work.flops << "  " << entry.operands << '\n';
}

void run(const Options& options) {
  Device device = Device::named(options.device, options.threads);
  const DType dtype = options.dtype == "bf16" ? DType::bf16 : options.dtype == "int8" ? DType::i8 : DType::f32;
  if (dtype == DType::i8 && options.gradients) throw std::runtime_error("--dtype int8: there are no gradients");
  const Purpose purpose = dtype == DType::i8 ? Purpose::inference : Purpose::training;
  const SafetensorsFile input(options.input);
  const ConstView ids = input.at("input_ids");
  const bool is_omni = ids.shape.rank() == 3;
  if (ids.dtype != DType::i64 || (ids.shape.rank() != 2 && !is_omni))
    throw std::runtime_error(options.input + ": input_ids: expected i64 [batch, time] or [batch, 9, time], found " +
                             Check::text(ids));
  const auto list = [&] {
    if (options.list) device.profiler().set_mode(Profiler::Mode::list);
  };
  std::vector<NamedTensor> tensors;
  if (is_omni) {
    const auto model = OmniModel::load(options.model, dtype, purpose, device);
    list();
    tensors = trace_omni(device, *model, read_omni_batch(input), options.gradients);
  } else {
    const ConstView labels = input.contains("labels") ? input.at("labels") : ConstView();
    const auto model = ThinkerModel::load(options.model, dtype, purpose, device);
    list();
    tensors = trace_forward(device, *model, ids, labels, options.gradients);
  }
  if (options.list) print_list(device.profiler());
  if (options.output.empty()) return;
  std::vector<NamedView> views;
  for (const NamedTensor& entry : tensors) views.push_back({entry.name, entry.tensor});
  write_safetensors(options.output, views, {{"dtype", options.dtype}});
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Runs one forward pass (and, with --grad, one backward pass) on given inputs and writes every named tensor.\n"
      "A Thinker: thinker.embed, thinker.layers.N, text_logits, loss, text_loss, aux_loss, grad.<parameter>. The "
      "input\n"
      "file holds input_ids and, for losses, labels: both int64 [batch, time], aligned (the model shifts).\n"
      "The omni model: thinker.input, thinker.layers.N, bridge, talker.input, talker.layers.N, text_logits,\n"
      "audio_logits, loss, text_loss, audio_loss, aux_loss, grad.<parameter>. The input file holds input_ids int64\n"
      "[batch, 9, time] and, as far as there are, text_labels [batch, time] and audio_labels [batch, 8, time] "
      "(already\n"
      "shifted), audio_states with audio_lens, image_states, spk_emb.\n\n"
      "Examples:\n"
      "  trace --model out/model --input in.safetensors --output out.safetensors --grad\n"
      "  trace --model out/model --input in.safetensors --list");
  Options options;
  app.add_option("--model", options.model, "model directory, or a weight file with config.json beside it")->required();
  app.add_option("--input", options.input, "safetensors file with input_ids and labels")->required();
  app.add_option("--output", options.output, "safetensors file to write");
  app.add_option("--dtype", options.dtype, "format of weights and activations; int8: of weights, beside f32")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--device", options.device, "where to run")->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads, 0 for all")->capture_default_str();
  app.add_flag("--grad", options.gradients, "also run the backward pass and write the gradients");
  app.add_flag("--list", options.list, "print each instruction with operands, bytes, FLOPs and time");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "trace: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
