// prepare_data: looks after the shards that the omni stages train on.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "trainers/batches.h"
#include "trainers/metrics.h"
#include "trainers/omni_batches.h"
#include "trainers/sample_table.h"
#include "trainers/shard_report.h"
#include "trainers/shards.h"

namespace {

using namespace omni;
namespace fs = std::filesystem;

constexpr const char* kFooter =
    R"(A shard is a plain tar archive. A sample is a run of files that share their key, the name up to the first dot:
  KEY.json            {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
  KEY.answer.N.npy    integers [frames, 8]: the codes of the N-th answer, from 0
  KEY.reference.npy   integers [frames, 8]: a clip of the answering voice
  KEY.speaker.npy     floats [192]: the speaker vector
  KEY.question.N.wav  the recorded N-th question (or .mp3, .flac, .ogg); KEY.question.N.npy: its states, floats [rows, 512]
  KEY.image.jpg       a picture (or .jpeg, .png, .webp);                 KEY.image.npy: its states, floats [64, 768]
All but the first may be missing. `tar tf SHARD` lists them; `tar --sort=name -cf SHARD -C FOLDER .` makes a shard of a
folder, and scripts/parquet_to_shards.py makes shards of the original's parquet files.

Exit code: 0 if all is well, 1 if there were errors; other codes: the command line is wrong.)";

// The one line of a long pass: rewritten in place on a terminal, else printed anew every few seconds.
class ByteProgress {
 public:
  explicit ByteProgress(std::uint64_t total) : total_(total) {}

  void show(std::uint64_t done) {
    const Clock::time_point now = Clock::now();
    if (done == 0 || now - shown_ < std::chrono::milliseconds(terminal_ ? 200 : 5000)) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count(),
                 speed = static_cast<double>(done) / seconds,
                 left = static_cast<double>(total_ - std::min(done, total_));
    std::fprintf(stderr, "%s%.1f%% of %sB, %sB/s, ETA %s%s", terminal_ ? "\r\x1b[K" : "",
                 100 * static_cast<double>(done) / static_cast<double>(total_),
                 count_text(static_cast<double>(total_)).c_str(), count_text(speed).c_str(),
                 duration_text(left / speed).c_str(), terminal_ ? "" : "\n");
    open_line_ = terminal_;
  }
  void end_line() {  // before other output
    if (open_line_) std::fputs("\r\x1b[K", stderr);
    open_line_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::uint64_t total_;
  bool terminal_ = ::isatty(STDERR_FILENO) == 1, open_line_ = false;
  Clock::time_point start_ = Clock::now(), shown_ = start_;
};

struct ValidateOptions {
  std::vector<std::string> paths;
  OmniRowLimits limits;

  void add_to(CLI::App& app) {
    CLI::App* command = app.add_subcommand("validate", "Read all samples, print every error, and sum up what is there");
    command->add_option("shards", paths, "Shards, or folders with *.tar in them")->required();
    command->add_option("--codes", limits.codes, "Codes are below this number")->capture_default_str();
    command->add_option("--speaker-width", limits.speaker, "Size of a speaker vector")->capture_default_str();
    command->add_option("--audio-width", limits.audio_width, "Width of a question's states")->capture_default_str();
    command->add_option("--image-rows", limits.image_rows, "Rows of a picture's states")->capture_default_str();
    command->add_option("--image-width", limits.image_width, "Width of a picture's states")->capture_default_str();
  }
};

int validate(const ValidateOptions& options) {
  const std::vector<fs::path> shards = list_shards({options.paths.begin(), options.paths.end()});
  std::uint64_t total = 0;
  std::error_code ignored;
  for (const fs::path& shard : shards)
    if (const std::uintmax_t bytes = fs::file_size(shard, ignored); !ignored) total += bytes;
  ByteProgress progress(total);
  const ShardReport report = report_shards(shards, options.limits,
                                           {.problem =
                                                [&](const std::string& text) {
                                                  progress.end_line();
                                                  std::cout << text << '\n';
                                                },
                                            .progress = [&](std::uint64_t done) { progress.show(done); }});
  progress.end_line();
  std::cout << report.text() << std::flush;
  return report.errors == 0 ? 0 : 1;
}

struct PeekOptions {
  std::string path, tokenizer, config;
  std::int64_t sample = 0, epoch = 0;
  TalkerRecipe recipe;

  CLI::App* add_to(CLI::App& app) {
    CLI::App* command =
        app.add_subcommand("peek", "Print a sample as training reads it: what was drawn, and the nine streams");
    command->add_option("shard", path, "A shard, or a folder with *.tar in it")->required();
    command->add_option("sample,--sample", sample, "Its number, from 0")->capture_default_str();
    command->add_option("--tokenizer", tokenizer, "Folder of tokenizer.json")->required();
    command->add_option("--config", config, "config.json of the model; without it the original's");
    command->add_option("--max-seq-len", recipe.max_seq_len, "As in the recipe")
        ->capture_default_str()
        ->check(CLI::Range(4, 1 << 20));
    command->add_option("--seed", recipe.seed, "As in the recipe")->capture_default_str();
    command->add_option("--epoch", epoch, "From 0; each draws anew")
        ->capture_default_str()
        ->check(CLI::Range(0, 1 << 20));
    command->add_option("--scheduled-sampling", recipe.scheduled_sampling, "As in the recipe")
        ->capture_default_str()
        ->check(CLI::Range(0., 1.));
    return command;
  }
};

int peek(const PeekOptions& options) {
  const OmniConfig config = options.config.empty() ? OmniConfig{} : load_omni_config(options.config);
  const auto tokenizer =
      std::make_shared<const Tokenizer>(load_tokenizer(options.tokenizer, config.thinker.vocab_size));
  const auto shards = std::make_shared<const ShardSet>(std::vector<fs::path>{options.path}, limits_of(config));
  if (options.sample < 0 || options.sample >= shards->size())
    throw std::runtime_error(options.path + ": sample: expected a number from 0 to " +
                             std::to_string(shards->size() - 1) + ", found " + std::to_string(options.sample));
  TalkerRecipe plain_recipe = options.recipe;
  plain_recipe.scheduled_sampling = 0;
  const ShardBatches batches(shards, tokenizer, config, options.recipe),
      plain_batches(shards, tokenizer, config, plain_recipe);
  const OmniRow row = shards->read(options.sample);
  const OmniSample sample = batches.sample(row, options.sample, options.epoch),
                   plain = plain_batches.sample(row, options.sample, options.epoch);
  std::cout << shards->place(options.sample) << " (sample " << options.sample << " of " << shards->size() << ", epoch "
            << options.epoch << ", seed " << options.recipe.seed << ")\n"
            << sample_summary(row, batches.decisions(row, options.sample, options.epoch), sample, config)
            << "\ninputs, then labels; P pad code, X stop code, S speaker, . no label, * by scheduled sampling\n"
            << sample_table(sample, plain, config, *tokenizer) << std::flush;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Looks after the shards that the omni stages train on.\n\n"
      "Examples:\n"
      "  prepare_data validate data/shards\n"
      "  prepare_data validate a.tar b.tar > problems.txt\n"
      "  prepare_data peek a.tar 7 --tokenizer assets/tokenizer --max-seq-len 640");
  app.footer(kFooter);
  app.require_subcommand(1);
  ValidateOptions validate_options;
  validate_options.add_to(app);
  PeekOptions peek_options;
  peek_options.recipe.max_seq_len = 512;
  const CLI::App* peek_command = peek_options.add_to(app);
  CLI11_PARSE(app, argc, argv);
  try {
    return peek_command->parsed() ? peek(peek_options) : validate(validate_options);
  } catch (const std::exception& error) {
    std::cerr << "prepare_data: " << error.what() << '\n';
    return 1;
  }
}
