// The programs as a user calls them: what they print, write and return.

#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "engine/files.h"
#include "engine/weights.h"
#include "models/omni_model.h"
#include "models/thinker_model.h"
#include "tests/apps/call.h"
#include "tests/support/numbers.h"
#include "tests/support/omni_shard.h"
#include "tests/trainers/small_run.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

// A model directory with a byte-level tokenizer without merges.
fs::path make_model(const TemporaryFolder& folder, bool use_moe) {
  ThinkerConfig config;
  config.hidden_size = 16;
  config.num_hidden_layers = 2;
  config.vocab_size = 259;
  config.num_attention_heads = 2;
  config.num_key_value_heads = 1;
  config.head_dim = 8;
  config.intermediate_size = config.moe_intermediate_size = 24;
  config.max_position_embeddings = 128;
  config.use_moe = use_moe;
  Device device = Device::cpu();
  const fs::path path = folder / (use_moe ? "moe" : "dense");
  ThinkerModel::create(config, DType::f32, 1, device)->save(path, DType::f32);

  write_byte_tokenizer(path);
  return path;
}

}  // namespace

TEST_CASE("every program explains itself and refuses what it does not know") {
  for (const std::string program :
       {"train_thinker", "chat", "convert", "prepare_data", "tokenizer", "trace", "train_talker"}) {
    CAPTURE(program);
    const Outcome help = call(program + " --help");
    REQUIRE(help.status == 0);
    REQUIRE_THAT(help.output, Catch::Contains("Examples"));
    REQUIRE(call(program + " --no-such-option").status != 0);
  }
}

TEST_CASE("convert: to .pth and back keeps every value that the formats hold") {
  for (const bool use_moe : {false, true}) {
    const TemporaryFolder folder;
    const fs::path model = make_model(folder, use_moe);
    const std::string half = (folder / "half").string(), pth = (folder / "model.pth").string(),
                      back = (folder / "back").string();
    REQUIRE(call("convert " + model.string() + " " + half + " --dtype bf16").status == 0);
    const Outcome to_pth = call("convert " + half + " " + pth + " --dtype f32");
    CAPTURE(to_pth.output);
    REQUIRE(to_pth.status == 0);
    REQUIRE(call("convert " + pth + " " + back + " --dtype bf16 --config " + half + "/config.json").status == 0);
    const WeightSource first = open_weights(half), second = open_weights(back), dictionary = open_weights(pth);
    REQUIRE(first.names().size() == second.names().size());
    for (const std::string& name : first.names()) REQUIRE(same_bits(first.at(name), second.at(name)));
    REQUIRE(dictionary.contains("lm_head.weight"));
    REQUIRE(dictionary.contains("model.embed_tokens.weight"));
  }
  const TemporaryFolder folder;
  const Outcome missing = call("convert " + (folder / "nothing.pth").string() + " " + (folder / "out").string());
  REQUIRE(missing.status == 1);
  REQUIRE_THAT(missing.output, Catch::Contains("nothing.pth"));
}

TEST_CASE("prepare_data: validates shards, and its exit code says what came of it") {
  const TemporaryFolder folder;
  write_text_file(folder / "a.tar", shard_of({full_sample("one", 1)}));
  const Outcome good = call("prepare_data validate " + folder.path().string());
  CAPTURE(good.output);
  REQUIRE(good.status == 0);
  REQUIRE_THAT(good.output, Catch::Contains("0 errors") && Catch::Contains("2 spoken"));
  REQUIRE(call("prepare_data validate --codes 7 " + folder.path().string()).status == 1);
  write_text_file(folder / "b.tar", "no shard");
  const Outcome bad = call("prepare_data validate " + folder.path().string());
  REQUIRE(bad.status == 1);
  REQUIRE_THAT(bad.output, Catch::Contains("b.tar: at byte 0"));
  REQUIRE(call("prepare_data validate " + (folder / "missing").string()).status == 1);
}

TEST_CASE("prepare_data: peeks at a sample") {
  const TemporaryFolder folder;
  write_byte_tokenizer(folder / "tokenizer");
  write_text_file(folder / "a.tar", shard_of({full_sample("one", 1), small_sample("two", 2)}));
  const std::string command =
      "prepare_data peek " + folder.path().string() + " --tokenizer " + (folder / "tokenizer").string();
  const Outcome first = call(command + " 1 --max-seq-len 64"), again = call(command + " --sample 1 --max-seq-len 64");
  CAPTURE(first.output);
  REQUIRE(first.status == 0);
  REQUIRE_THAT(first.output, Catch::Contains("a.tar: two (sample 1 of 2") && Catch::Contains("[2 frames of codes]") &&
                                 Catch::Contains("| <|im_start|>\n"));
  REQUIRE(first.output == again.output);
  std::set<std::string> drawn;
  for (int epoch = 0; epoch < 10; ++epoch)
    drawn.insert(
        call(command + " --max-seq-len 400 --epoch " + std::to_string(epoch)).output.substr(first.output.find('\n')));
  REQUIRE(drawn.size() > 5);  // of ten epochs
  const Outcome beyond = call(command + " 2");
  REQUIRE(beyond.status == 1);
  REQUIRE_THAT(beyond.output, Catch::Contains("sample: expected a number from 0 to 1, found 2"));
}

TEST_CASE("trace: writes named tensors, lists instructions, names what is wrong with its input") {
  const TemporaryFolder folder;
  const fs::path model = make_model(folder, false);
  const OwnedTensor ids = random_ids({2, 9}, 1, 259), wrong = randn({2, 9}, 1, DType::f32);
  const std::string in = (folder / "in.safetensors").string(), out = (folder / "out.safetensors").string();
  write_safetensors(in, std::vector<NamedView>{{"input_ids", ids}, {"labels", ids}});
  for (const char* dtype : {"f32", "bf16"}) {
    const Outcome traced = call("trace --model " + model.string() + " --input " + in + " --output " + out +
                                " --grad --list --dtype " + dtype);
    CAPTURE(traced.output);
    REQUIRE(traced.status == 0);
    REQUIRE_THAT(traced.output, Catch::Contains("matmul") && Catch::Contains("[2, 9, 32]"));
    const SafetensorsFile file(out);
    for (const char* name :
         {"thinker.embed", "thinker.layers.0", "thinker.layers.1", "text_logits", "loss", "text_loss", "aux_loss",
          "grad.model.norm.weight", "grad.model.layers.1.self_attn.k_proj.weight"})
      REQUIRE(file.contains(name));
    REQUIRE(file.at("text_logits").shape == Shape{2, 9, 259});
  }
  const Outcome whole =
      call("trace --model " + model.string() + " --input " + in + " --output " + out + " --dtype int8");
  CAPTURE(whole.output);
  REQUIRE(whole.status == 0);
  REQUIRE(SafetensorsFile(out).contains("text_logits"));
  const Outcome graded = call("trace --model " + model.string() + " --input " + in + " --dtype int8 --grad");
  REQUIRE(graded.status == 1);
  REQUIRE_THAT(graded.output, Catch::Contains("there are no gradients"));
  write_safetensors(in, std::vector<NamedView>{{"input_ids", wrong}});
  const Outcome refused = call("trace --model " + model.string() + " --input " + in);
  REQUIRE(refused.status == 1);
  REQUIRE_THAT(refused.output, Catch::Contains("input_ids: expected i64 [batch, time]"));
}

TEST_CASE("trace: a page of a prompt, and what it needs for one") {
  const TemporaryFolder folder;
  const std::string model = " --model " + make_model(folder, true).string();
  const std::string html = (folder / "page.html").string();
  const Outcome traced = call("trace" + model + " --prompt '</script> & so on' --grad --html " + html);
  CAPTURE(traced.output);
  REQUIRE(traced.status == 0);
  const std::string page = read_text_file(html);
  REQUIRE(page.starts_with("<!doctype html>"));
  for (const char* text : {"moe_route_backward", "kernels/moe/route.cpp", "model.layers.1", "\\u003c|im_start|>"})
    REQUIRE_THAT(page, Catch::Contains(text));
  const Outcome neither = call("trace" + model + " --html " + html);
  REQUIRE(neither.status == 1);
  REQUIRE_THAT(neither.output, Catch::Contains("--input") && Catch::Contains("--prompt"));
  fs::remove(folder / "moe" / "tokenizer.json");
  const Outcome mute = call("trace" + model + " --prompt hello --html " + html);
  REQUIRE(mute.status == 1);
  REQUIRE_THAT(mute.output, Catch::Contains("tokenizer.json"));
}

TEST_CASE("chat: one prompt, a conversation with commands, and a model that does not exist") {
  const TemporaryFolder folder;
  const std::string model = " --model " + make_model(folder, true).string();
  const Outcome once = call("chat" + model + " --prompt Hello --max-new-tokens 8 --greedy --statistics");
  CAPTURE(once.output);
  REQUIRE(once.status == 0);
  REQUIRE_THAT(once.output, Catch::Contains("tokens/s"));
  REQUIRE(call("chat" + model + " --prompt Hello --max-new-tokens 8 --greedy").output ==
          call("chat" + model + " --prompt Hello --max-new-tokens 8 --greedy").output);
  REQUIRE(call("chat" + model + " --prompt Hello --max-new-tokens 8 --dtype int8").status == 0);
  const Outcome talk =
      call("chat" + model + " --max-new-tokens 4",
           "/help\nHi\n/retry\n/history\n/set temperature 0.5\n/set nonsense 1\n/unknown\n/reset\n/retry\n/quit\n");
  CAPTURE(talk.output);
  REQUIRE(talk.status == 0);
  REQUIRE_THAT(talk.output, Catch::Contains("/history") && Catch::Contains("user: Hi") &&
                                Catch::Contains("no setting nonsense") && Catch::Contains("unknown command /unknown") &&
                                Catch::Contains("no answer to retry"));
  // Longer than the context: an error, not a crash.
  REQUIRE(call("chat" + model + " --context 8 --prompt Hello").status == 1);
  const Outcome missing = call("chat --model " + (folder / "nowhere").string() + " --prompt Hi");
  REQUIRE(missing.status == 1);
  REQUIRE_THAT(missing.output, Catch::Contains("nowhere"));
}

TEST_CASE("chat: text and codes of an omni model") {
  const TemporaryFolder folder;
  OmniConfig config;
  config.thinker = load_config(make_model(folder, false));
  config.thinker.model_type = "minimind-o";
  config.talker_hidden_size = 16;
  config.num_talker_hidden_layers = 1;
  config.bridge_layer = 0;
  config.spk_emb_size = 4;
  const fs::path directory = folder / "omni";
  Device device = Device::cpu();
  OmniModel::create(config, DType::f32, 1, device)->save(directory, DType::f32);
  write_byte_tokenizer(directory);
  const std::string model = " --model " + directory.string(), out = (folder / "out.safetensors").string(),
                    voice = (folder / "voice.safetensors").string();
  const OwnedTensor codes = random_ids({8, 6}, 1, 2048), speaker = randn({4}, 2, DType::f32),
                    wide = randn({5}, 2, DType::f32);
  write_safetensors(voice, std::vector<NamedView>{{"ref_codes", codes}, {"spk_emb", speaker}});
  const std::string ask = "chat" + model + " --prompt Hi --max-new-tokens 20 --codes " + out;
  const auto written = [&](const std::string& more) {
    const Outcome outcome = call(ask + more);
    CAPTURE(outcome.output);
    REQUIRE(outcome.status == 0);
    return read_text_file(out);
  };
  const std::string first = written(" --seed 5 --statistics");
  const SafetensorsFile file(out);
  const std::int64_t frames = file.at("codes").width();
  REQUIRE(file.at("codes").shape == Shape{8, frames});
  REQUIRE(frames <= 12);
  REQUIRE(file.metadata().at("seed") == "5");
  REQUIRE(written(" --seed 5") == first);
  written(" --voice " + voice + " --dtype int8");
  REQUIRE_THAT(call(ask + " --statistics").output, Catch::Contains("tokens/s; "));
  REQUIRE(call("chat" + model + " --prompt Hi --max-new-tokens 4").status == 0);  // text alone

  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const Outcome outcome = call(arguments);
    REQUIRE(outcome.status != 0);
    REQUIRE_THAT(outcome.output, Catch::Contains(message));
  };
  refused("chat" + model + " --codes " + out, "--prompt");
  refused(ask + " --top-k 5", "--top-k");
  refused(ask + " --voice " + (folder / "none.safetensors").string(), "none.safetensors");
  write_safetensors(voice, std::vector<NamedView>{{"spk_emb", wide}});
  refused(ask + " --voice " + voice, "spk_emb: expected f32 [4], found f32 [5]");
  refused("chat --model " + (folder / "dense").string() + " --prompt Hi --codes " + out,
          "model_type: expected minimind-o");
}

TEST_CASE("tokenizer: there and back, one JSON line each") {
  const TemporaryFolder folder;
  const std::string model = " --model " + make_model(folder, false).string();
  const Outcome encoded = call("tokenizer encode" + model, "{\"text\": \"<|im_start|>h\\u00e9\"}\n");
  REQUIRE(encoded.status == 0);
  const Outcome decoded = call("tokenizer decode" + model, encoded.output);
  REQUIRE(decoded.status == 0);
  REQUIRE(nlohmann::json::parse(decoded.output)["text"] == "<|im_start|>h\u00e9");
  REQUIRE(call("tokenizer encode" + model, "no json\n").status == 1);
  const Outcome chat =
      call("tokenizer template", R"({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true})");
  CAPTURE(chat.output);
  REQUIRE(nlohmann::json::parse(chat.output)["text"] ==
          "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

}  // namespace omni
