// chat: talk to a trained model, interactively or with a single prompt.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>

#include "apps/chat/speak.h"
#include "models/chat_template.h"
#include "models/generate.h"
#include "models/tokenizer.h"

namespace {

using namespace omni;

struct Options {
  std::string model, prompt, system, dtype = "bf16", device = "cpu", codes, voice;
  int threads = 0;
  std::int64_t context = 2048;
  bool as_trained = false, raw = false, thinking = false, statistics = false;
  GenerationSettings generation{.sampling = {}, .max_new_tokens = 512, .seed = 42};
};

constexpr const char* kCommands =
    "/help             this list\n"
    "/reset            forget the conversation\n"
    "/history          show the conversation\n"
    "/system TEXT      set the system message and forget the conversation\n"
    "/set NAME VALUE   temperature, top_k, top_p, repetition_penalty, greedy, seed, max_new_tokens, thinking\n"
    "/retry            answer the last message again with another seed\n"
    "/quit             leave (or end of input)\n";

class Chat {
 public:
  Chat(const Options& options)
      : options_(options),
        device_(Device::named(options.device, options.threads)),
        model_(ThinkerModel::load(options.model, dtype_named(options.dtype), Purpose::inference, device_)),
        tokenizer_(Tokenizer::load(model_directory(options.model))),
        sequence_(device_, *model_, options.context) {
    if (tokenizer_.vocab_size() > model_->config.vocab_size)
      throw std::runtime_error(options.model + ": tokenizer.json has " + std::to_string(tokenizer_.vocab_size()) +
                               " tokens, config.json's vocab_size is " + std::to_string(model_->config.vocab_size));
    reset();
  }

  // Answers one message, streaming the text to standard output.
  void answer(const std::string& text) {
    history_.push_back({{"role", "user"}, {"content", text}});
    reply();
  }

  // Reads messages and commands from standard input until it ends.
  void converse() {
    const bool terminal = isatty(STDIN_FILENO);
    if (terminal) std::cout << "Type a message, or /help.\n";
    std::string line;
    for (;;) {
      if (terminal) std::cout << "\n> " << std::flush;
      if (!std::getline(std::cin, line)) break;
      if (line.empty()) continue;
      try {
        if (line[0] == '/') {
          if (!command(line)) break;
        } else {
          answer(line);
        }
      } catch (const std::exception& error) {
        std::cout << "error: " << error.what() << '\n';
      }
    }
  }

 private:
  void reset() {
    history_ = nlohmann::ordered_json::array();
    if (!options_.system.empty()) history_.push_back({{"role", "system"}, {"content", options_.system}});
  }

  std::vector<std::int32_t> prompt() const {
    // Pretrained weights have seen plain documents only, each opened by the begin-of-sequence token.
    if (options_.raw) {
      std::vector<std::int32_t> ids = tokenizer_.encode(history_.back()["content"].get<std::string>());
      ids.insert(ids.begin(), static_cast<std::int32_t>(model_->config.bos_token_id));
      return ids;
    }
    return tokenizer_.encode(
        render_chat(history_, {.tools = {}, .add_generation_prompt = true, .open_thinking = options_.thinking}));
  }

  void reply() {
    const std::vector<std::int32_t> ids = prompt();
    StreamingDecoder decoder(tokenizer_);
    const auto eos = static_cast<std::int32_t>(model_->config.eos_token_id);
    std::string text;
    const auto begin = std::chrono::steady_clock::now();
    std::chrono::steady_clock::time_point first;
    const std::vector<std::int32_t> out = generate(sequence_, ids, options_.generation, eos, [&](std::int32_t id) {
      if (first == std::chrono::steady_clock::time_point{}) first = std::chrono::steady_clock::now();
      if (id == eos) return true;
      const std::string piece = decoder.push(id);
      text += piece;
      std::cout << piece << std::flush;
      return true;
    });
    const std::string rest = decoder.finish();
    text += rest;
    std::cout << rest << std::endl;
    history_.push_back({{"role", "assistant"}, {"content", text}});
    if (!options_.statistics) return;
    const std::chrono::duration<double> prefill = first - begin, decode = std::chrono::steady_clock::now() - first;
    std::cout << "[" << ids.size() << " prompt tokens in " << prefill.count() << " s, " << out.size() << " tokens, "
              << (out.size() > 1 ? static_cast<double>(out.size() - 1) / decode.count() : 0.0) << " tokens/s]\n";
  }

  bool command(const std::string& line) {
    std::istringstream words(line);
    std::string name, argument;
    words >> name;
    std::getline(words >> std::ws, argument);
    if (name == "/quit" || name == "/exit") return false;
    if (name == "/help") {
      std::cout << kCommands;
    } else if (name == "/reset") {
      reset();
    } else if (name == "/history") {
      for (const auto& message : history_)
        std::cout << message["role"].get<std::string>() << ": " << message["content"].get<std::string>() << '\n';
    } else if (name == "/system") {
      options_.system = argument;
      reset();
    } else if (name == "/set") {
      set(argument);
    } else if (name == "/retry") {
      retry();
    } else {
      std::cout << "unknown command " << name << "\n" << kCommands;
    }
    return true;
  }

  void retry() {
    if (history_.empty() || history_.back()["role"] != "assistant")
      throw std::runtime_error("there is no answer to retry");
    history_.erase(history_.size() - 1);
    ++options_.generation.seed;
    reply();
  }

  void set(const std::string& assignment) {
    std::istringstream words(assignment);
    std::string name;
    double value = 0;
    if (!(words >> name >> value)) throw std::runtime_error("expected /set NAME NUMBER, found \"" + assignment + "\"");
    SamplingSettings& sampling = options_.generation.sampling;
    if (name == "temperature" && value > 0) {
      sampling.temperature = value;
    } else if (name == "top_k" && value >= 0) {
      sampling.top_k = static_cast<std::int64_t>(value);
    } else if (name == "top_p" && value > 0) {
      sampling.top_p = value;
    } else if (name == "repetition_penalty" && value > 0) {
      sampling.repetition_penalty = value;
    } else if (name == "greedy") {
      sampling.greedy = value != 0;
    } else if (name == "seed" && value >= 0) {
      options_.generation.seed = static_cast<std::uint64_t>(value);
    } else if (name == "max_new_tokens" && value >= 1) {
      options_.generation.max_new_tokens = static_cast<std::int64_t>(value);
    } else if (name == "thinking") {
      options_.thinking = value != 0;
    } else {
      throw std::runtime_error("no setting " + name + " with this value, see /help");
    }
  }

  Options options_;
  Device device_;
  std::unique_ptr<ThinkerModel> model_;
  Tokenizer tokenizer_;
  TextSequence sequence_;
  nlohmann::ordered_json history_;
};

// Answers the prompt with text and codes. Sampling settings that were not given are those of a speaking model.
void answer_aloud(const Options& options, const CLI::App& app) {
  SpeakOptions out{.model = options.model,
                   .dtype = options.dtype,
                   .device = options.device,
                   .voice = options.voice,
                   .codes = options.codes,
                   .threads = options.threads,
                   .context = options.context,
                   .statistics = options.statistics,
                   .as_trained = options.as_trained,
                   .speech = {}};
  const SamplingSettings& sampling = options.generation.sampling;
  if (app.count("--temperature") > 0) out.speech.temperature = sampling.temperature;
  out.speech.top_p = sampling.top_p;
  out.speech.repetition_penalty = sampling.repetition_penalty;
  out.speech.greedy = sampling.greedy;
  out.speech.thinking = options.thinking;
  out.speech.max_new_tokens = options.generation.max_new_tokens;
  out.speech.seed = options.generation.seed;
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", options.prompt}});
  speak(out, messages);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Talks to a trained Thinker, alone or in an omni model, which can speak.\n"
      "Without --prompt it reads messages from standard input and keeps the conversation;\n"
      "lines that begin with / are commands, /help lists them.\n\n"
      "Examples:\n"
      "  chat --model out/sft/model\n"
      "  chat --model out/sft/model --prompt \"What is a heron?\" --greedy\n"
      "  chat --model out/pretrain/model --raw --prompt \"A heron is\"\n"
      "  chat --model out/omni --prompt \"What is a heron?\" --codes answer.safetensors --voice voices.pt:serena");
  Options options;
  SamplingSettings& sampling = options.generation.sampling;
  app.add_option("--model", options.model,
                 "model directory, or a weight file beside its config.json and tokenizer.json")
      ->required();
  auto* prompt = app.add_option("--prompt", options.prompt, "answer this one message and leave");
  app.add_option("--system", options.system, "system message");
  app.add_option("--temperature", sampling.temperature, "divides the logits; 0.7 with --codes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto* top_k = app.add_option("--top-k", sampling.top_k, "draw from the k most probable tokens, 0 for all")
                    ->check(CLI::NonNegativeNumber)
                    ->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "draw from the most probable tokens up to this probability")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "above 1 discourages tokens that were used")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--greedy", sampling.greedy, "always the most probable token");
  app.add_option("--seed", options.generation.seed, "of the draws")->capture_default_str();
  app.add_option("--max-new-tokens", options.generation.max_new_tokens, "limit of an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--context", options.context, "tokens of conversation that fit")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--dtype", options.dtype, "format of the weights; int8 is for the CPU")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--device", options.device, "where to run")->capture_default_str();
  app.add_option("--threads", options.threads, "CPU threads, 0 for all")->capture_default_str();
  auto* raw =
      app.add_flag("--raw", options.raw, "continue the prompt as a document, for weights that only saw pretraining");
  app.add_flag("--thinking", options.thinking, "leave the think block open for the model to fill");
  app.add_flag("--statistics", options.statistics, "print the speed after each answer");
  auto* codes = app.add_option("--codes", options.codes,
                               "answer the prompt in text and speech, and write the codes to this safetensors file: "
                               "\"codes\" i64 [8, frames], 12.5 frames per second");
  codes->needs(prompt)->excludes(top_k)->excludes(raw);
  app.add_option("--voice", options.voice,
                 "speak with this voice: FILE.safetensors with ref_codes and spk_emb, or FILE.pt:NAME")
      ->needs(codes);
  app.add_flag("--as-trained", options.as_trained,
               "after the end of text and codes feed the model what its training data hold there; the original feeds "
               "another token and goes on drawing codes")
      ->needs(codes);
  CLI11_PARSE(app, argc, argv);
  try {
    if (!options.codes.empty()) {
      answer_aloud(options, app);
      return 0;
    }
    Chat chat(options);
    if (options.prompt.empty())
      chat.converse();
    else
      chat.answer(options.prompt);
  } catch (const std::exception& error) {
    std::cerr << "chat: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
