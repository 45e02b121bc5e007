// trace: one forward (and backward) pass on given inputs, every named tensor written to a file.

#include <CLI/CLI.hpp>
#include <iomanip>
#include <iostream>
#include <limits>
#include <optional>

#include "engine/machine.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "models/chat_template.h"
#include "models/forward_trace.h"
#include "models/talker.h"
#include "models/trace_page.h"

namespace {

using namespace omni;
namespace fs = std::filesystem;

constexpr int kTimedPasses = 3;

struct Options {
  std::string model, input, prompt, output, html, dtype = "f32", device = "cpu";
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

// What a pass reads: the tensors of a file, or a prompt as the model is asked it, every token of which is a label.
class Input {
 public:
  explicit Input(const Options& options) {
    if (fs::exists(model_directory(options.model) / "tokenizer.json"))
      tokenizer = Tokenizer::load(model_directory(options.model));
    if (options.prompt.empty()) {
      file_.emplace(options.input);
      ids = file_->at("input_ids");
      if (file_->contains("labels")) labels = file_->at("labels");
    } else {
      set_prompt(options);
    }
    is_omni = ids.shape.rank() == 3;
    if (ids.dtype != DType::i64 || (ids.shape.rank() != 2 && !is_omni))
      throw std::runtime_error(options.input + ": input_ids: expected i64 [batch, time] or [batch, 9, time], found " +
                               Check::text(ids));
  }

  OmniBatch omni_batch() const {
    if (file_) return read_omni_batch(*file_);
    OmniBatch batch;
    batch.input_ids = ids;
    batch.text_labels = labels;
    batch.audio_labels = audio_labels_;
    return batch;
  }

  ConstView ids, labels;
  bool is_omni = false;
  std::optional<Tokenizer> tokenizer;

 private:
  void set_prompt(const Options& options) {
    if (!tokenizer) throw std::runtime_error(options.model + ": --prompt needs a tokenizer.json beside the weights");
    nlohmann::ordered_json messages;
    messages.push_back({{"role", "user"}, {"content", options.prompt}});
    const std::vector<std::int32_t> tokens =
        tokenizer->encode(render_chat(messages, {.tools = {}, .add_generation_prompt = true, .open_thinking = false}));
    const auto time = static_cast<std::int64_t>(tokens.size());
    if (load_config(model_directory(options.model)).model_type != "minimind-o") {
      ids_ = OwnedTensor(DType::i64, {1, time});
      std::copy(tokens.begin(), tokens.end(), ids_.as<std::int64_t>());
      ids = labels = ids_;
      return;
    }
    // Nobody has spoken yet: eight streams of padding above the text.
    const OmniConfig config = load_omni_config(model_directory(options.model));
    ids_ = OwnedTensor(DType::i64, {1, kCodebooks + 1, time});
    labels_ = OwnedTensor(DType::i64, {1, time});
    audio_labels_ = OwnedTensor(DType::i64, {1, kCodebooks, time});
    std::fill_n(ids_.as<std::int64_t>(), kCodebooks * time, config.audio_pad_token);
    std::copy(tokens.begin(), tokens.end(), ids_.as<std::int64_t>() + kCodebooks * time);
    std::fill_n(audio_labels_.as<std::int64_t>(), kCodebooks * time, kIgnoreIndex);
    std::copy(tokens.begin() + 1, tokens.end(), labels_.as<std::int64_t>());
    labels_.as<std::int64_t>()[time - 1] = kIgnoreIndex;
    ids = ids_;
    labels = labels_;
  }

  std::optional<SafetensorsFile> file_;
  OwnedTensor ids_, labels_, audio_labels_;
};

// The times of all instructions of a pass, each the least of several passes. The first ones pay for memory and
// libraries.
template <class Pass>
std::vector<double> least_seconds(Device& device, int passes, const Pass& pass) {
  const Profiler::Mode mode = device.profiler().mode();
  device.profiler().set_mode(Profiler::Mode::list);
  std::vector<double> out;
  for (int i = 0; i < passes; ++i) {
    device.profiler().clear();
    pass(nullptr);
    const std::vector<Profiler::Entry>& entries = device.profiler().executions();
    if (i == 0) out.assign(entries.size(), std::numeric_limits<double>::infinity());
    for (std::size_t k = 0; k < std::min(out.size(), entries.size()); ++k)
      out[k] = std::min(out[k], entries[k].seconds);
  }
  device.profiler().clear();
  device.profiler().set_mode(mode);
  return out;
}

// Runs the pass: once, or for the page several times.
template <class Model, class Pass>
std::vector<NamedTensor> run_passes(const Options& options, Device& device, Model& model, const Input& input,
                                    const Pass& pass) {
  if (options.list) device.profiler().set_mode(Profiler::Mode::list);
  if (options.html.empty()) return pass(nullptr);
  const MachineLimits limits = measure_machine(device);
  const std::vector<double> seconds = least_seconds(device, kTimedPasses, pass);
  StepRecorder recorder(model.store, input.ids.shape[0] * input.ids.shape[-1]);
  std::vector<NamedTensor> tensors = pass(&recorder);
  recorder.set_seconds(seconds);
  const TracePage page{
      .model = fs::path(options.model).lexically_normal().string(),
      .device = device.name(),
      .dtype = options.dtype,
      .parameters = model.store.parameter_count(),
      .on_gpu = !device.is_cpu(),
      .limits = limits,
      .timing = "Each time is the least of " + std::to_string(kTimedPasses) + " passes, one instruction at a time.",
      .ids = input.ids,
      .tokenizer = input.tokenizer ? &*input.tokenizer : nullptr};
  write_trace_page(options.html, trace_json(page, recorder.recording(), tensors));
  return tensors;
}

void run(const Options& options) {
  if (options.input.empty() == options.prompt.empty()) throw std::runtime_error("expected one of --input and --prompt");
  Device device = Device::named(options.device, options.threads);
  const DType dtype = dtype_named(options.dtype);
  if (dtype == DType::i8 && options.gradients) throw std::runtime_error("--dtype int8: there are no gradients");
  const Purpose purpose = dtype == DType::i8 ? Purpose::inference : Purpose::training;
  const Input input(options);
  std::vector<NamedTensor> tensors;
  if (input.is_omni) {
    const auto model = OmniModel::load(options.model, dtype, purpose, device);
    tensors = run_passes(options, device, *model, input, [&](StepRecorder* recorder) {
      return trace_omni(device, *model, input.omni_batch(), options.gradients, recorder);
    });
  } else {
    const auto model = ThinkerModel::load(options.model, dtype, purpose, device);
    tensors = run_passes(options, device, *model, input, [&](StepRecorder* recorder) {
      return trace_forward(device, *model, input.ids, input.labels, options.gradients, recorder);
    });
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
      "  trace --model out/model --input in.safetensors --list\n"
      "  trace --model out/model --prompt \"What is a heron?\" --grad --html page.html");
  Options options;
  app.add_option("--model", options.model, "model directory, or a weight file with config.json beside it")->required();
  app.add_option("--input", options.input, "safetensors file with input_ids and labels");
  app.add_option("--prompt", options.prompt, "a user's message instead, in the chat template");
  app.add_option("--output", options.output, "safetensors file to write");
  app.add_option("--html", options.html, "page to write: every instruction with its values, for a browser");
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
