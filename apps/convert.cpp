// convert: between the original's .pth state dicts and Hugging Face model directories, in f32, bf16 or f16.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "engine/files.h"
#include "engine/memory.h"
#include "engine/weights.h"
#include "models/config.h"
#include "models/load_weights.h"
#include "models/saved_order.h"

namespace {

using namespace omni;
namespace fs = std::filesystem;

struct Options {
  std::string input, output, dtype, config;
};

// The source's tensors, floating-point ones converted to `dtype`. The head that is tied to the embedding is written
// twice in a .pth, as the original does, and once in a model directory.
std::vector<NamedView> converted(const WeightSource& source, DType dtype, bool tied, bool to_pth,
                                 std::vector<OwnedTensor>& memory) {
  std::vector<NamedView> out;
  const bool tie = tied && (source.contains(kEmbedding) || source.contains(kHead));
  for (const std::string& name : source.names()) {
    if (tie && name == kHead && source.contains(kEmbedding)) continue;
    const ConstView from = source.at(tie && name == kEmbedding && source.contains(kHead) ? std::string(kHead) : name);
    const bool is_float =
        from.dtype == DType::f32 || from.dtype == DType::bf16 || from.dtype == DType::f16 || from.dtype == DType::f64;
    const std::string to_name = tie && name == kHead ? kEmbedding : name;
    if (!is_float || from.dtype == dtype) {
      out.push_back({to_name, from});
      continue;
    }
    memory.emplace_back(dtype, from.shape);
    copy_converted(from, memory.back());
    out.push_back({to_name, memory.back()});
  }
  if (tie && to_pth)
    for (std::size_t i = 0; i < out.size(); ++i)
      if (out[i].name == kEmbedding) {
        out.push_back({kHead, out[i].view});
        break;
      }
  sort_as_saved(out);
  return out;
}

void run(const Options& options) {
  const fs::path input = options.input, output = options.output;
  const bool to_pth = output.extension() == ".pth";
  const fs::path source_folder = model_directory(input);
  const fs::path config_path = options.config.empty() ? source_folder / "config.json" : fs::path(options.config);
  const WeightSource source = open_weights(input);
  const bool has_config = fs::exists(config_path);
  if (!to_pth && !has_config)
    throw std::runtime_error(config_path.string() + ": a model directory needs a config.json; name one with --config");
  const ThinkerConfig config = has_config ? load_config(config_path) : ThinkerConfig();
  const DType dtype = dtype_named(options.dtype.empty() ? (to_pth ? "f16" : "bf16") : options.dtype);
  std::vector<OwnedTensor> memory;
  const std::vector<NamedView> tensors = converted(source, dtype, config.tie_word_embeddings, to_pth, memory);
  if (to_pth) {
    write_pth(output, tensors);
  } else {
    fs::create_directories(output);
    // The file as it is, so that fields of other programs survive.
    write_text_file(output / "config.json", read_text_file(config_path));
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
      if (fs::exists(source_folder / name)) write_text_file(output / name, read_text_file(source_folder / name));
    write_safetensors(output / "model.safetensors", tensors, {{"format", "pt"}});
  }
  std::cout << output.string() << ": " << tensors.size() << " tensors in " << name_of(dtype) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Converts weights between the original's .pth state dict and a Hugging Face model directory (config.json,\n"
      "model.safetensors, tokenizer files). The output's name decides: *.pth is a state dict, all else a directory.\n\n"
      "Examples:\n"
      "  convert llm_768.pth out/llm --config config.json --dtype bf16\n"
      "  convert out/llm llm_768.pth                                     (f16, as the original saves)\n"
      "  convert out/llm out/llm_f32 --dtype f32");
  Options options;
  app.add_option("input", options.input, "model directory or weight file (.pth, .safetensors, .bin)")->required();
  app.add_option("output", options.output, "NAME.pth or a directory")->required();
  app.add_option("--dtype", options.dtype, "f32, bf16 or f16; default f16 for .pth, bf16 for a directory")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  app.add_option("--config", options.config, "config.json of the model, if it is not beside the weights");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::cerr << "convert: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
