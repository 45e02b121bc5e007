#include "apps/chat/speak.h"

#include <chrono>
#include <iostream>

#include "engine/safetensors.h"
#include "models/chat_template.h"
#include "models/speech_generation.h"
#include "models/tokenizer.h"
#include "models/voice.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

// When things came out.
class Stopwatch {
 public:
  void saw(const SpeechEmission& emission) {
    if (emission.text) text_.add();
    if (emission.frame) frames_.add();
  }
  void print(std::size_t prompt_tokens) const {
    const double frame_rate = frames_.rate();
    std::cout << "[" << prompt_tokens << " prompt tokens; " << text_.count << " tokens, the first after "
              << seconds(text_.first) << " s, " << text_.rate() << " tokens/s; " << frames_.count << " frames";
    if (frames_.count > 0)
      std::cout << ", the first after " << seconds(frames_.first) << " s, " << frame_rate << " frames/s, "
                << frame_rate / kFramesPerSecond << " x real time";
    std::cout << "]\n";
  }

 private:
  struct Series {
    Clock::time_point first = {}, last = {};
    std::int64_t count = 0;
    void add() {
      last = Clock::now();
      if (count++ == 0) first = last;
    }
    double rate() const {
      return count > 1 ? static_cast<double>(count - 1) / std::chrono::duration<double>(last - first).count() : 0;
    }
  };
  double seconds(Clock::time_point time) const { return std::chrono::duration<double>(time - begin_).count(); }

  Clock::time_point begin_ = Clock::now();
  Series text_, frames_;
};

void write_codes(const SpeakOptions& options, const SpeechResult& result, const std::string& text) {
  const auto count = static_cast<std::int64_t>(result.frames.size());
  const OwnedTensor codes(DType::i64, {kCodebooks, count});
  for (std::int64_t f = 0; f < count; ++f)
    for (std::int64_t q = 0; q < kCodebooks; ++q)
      codes.as<std::int64_t>()[q * count + f] = result.frames[static_cast<std::size_t>(f)][static_cast<std::size_t>(q)];
  write_safetensors(options.codes, std::vector<NamedView>{{"codes", codes}},
                    {{"format", "codes of 8 codebooks, 12.5 frames per second"},
                     {"text", text},
                     {"model", options.model},
                     {"voice", options.voice},
                     {"seed", std::to_string(options.speech.seed)},
                     {"temperature", std::to_string(options.speech.temperature)},
                     {"top_p", std::to_string(options.speech.top_p)}});
}

}  // namespace

void speak(const SpeakOptions& options, const nlohmann::ordered_json& messages) {
  const std::filesystem::path directory = model_directory(options.model);
  const ThinkerConfig text_config = load_config(directory);
  if (text_config.model_type != "minimind-o")
    throw std::runtime_error(options.model +
                             ": config.json: model_type: expected minimind-o, the omni model, to speak, " + "found " +
                             text_config.model_type);
  const Tokenizer tokenizer = Tokenizer::load(directory);
  const Voice voice = options.voice.empty() ? Voice() : load_voice(options.voice);
  Device device = Device::named(options.device, options.threads);
  const auto model = OmniModel::load(options.model, dtype_named(options.dtype), Purpose::inference, device);
  SpeechGenerator generator(device, *model, 1, options.context);
  SpeechRequest request;
  request.prompt.ids = tokenizer.encode(
      render_chat(messages, {.tools = {}, .add_generation_prompt = true, .open_thinking = options.speech.thinking}));
  request.prompt.ref_codes = voice.ref_codes;
  request.prompt.spk_emb = voice.spk_emb;
  request.settings = options.speech;
  if (options.as_trained) {
    request.settings.enter_token_id = tokenizer.encode("\n").front();
    request.settings.pad_after_stop = true;
  }
  const std::size_t prompt_tokens = request.prompt.ids.size();
  StreamingDecoder decoder(tokenizer);
  std::string text;
  const auto show = [&](const std::string& piece) {
    text += piece;
    std::cout << piece << std::flush;
  };
  Stopwatch watch;
  request.on_emission = [&](const SpeechEmission& emission) {
    watch.saw(emission);
    if (emission.text && *emission.text != model->config.thinker.eos_token_id) show(decoder.push(*emission.text));
    return true;
  };
  const SpeechResult result = generator.generate(std::span(&request, 1))[0];
  show(decoder.finish());
  std::cout << std::endl;
  write_codes(options, result, text);
  if (options.statistics) watch.print(prompt_tokens);
}

}  // namespace omni
