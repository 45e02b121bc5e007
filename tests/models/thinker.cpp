#include "models/thinker.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/gradcheck.h"
#include "engine/files.h"
#include "kernels/elementwise/elementwise.h"
#include "models/generate.h"
#include "models/text_loss.h"
#include "models/thinker_model.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

ThinkerConfig small_config(bool use_moe) {
  ThinkerConfig config;
  config.hidden_size = 16;
  config.num_hidden_layers = 2;
  config.vocab_size = 37;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.intermediate_size = config.moe_intermediate_size = 24;
  config.max_position_embeddings = 64;
  config.use_moe = use_moe;
  config.num_experts = 3;
  config.num_experts_per_tok = 2;
  return config;
}

// Labels in the middle of rows of different lengths, as a padded batch of conversations has them; one row has none.
struct PaddedBatch {
  OwnedTensor ids = random_ids({4, 41}, 5, 37), labels = OwnedTensor(DType::i64, {4, 41});
  PaddedBatch() {
    for (std::int64_t b = 0; b < 4; ++b)
      for (std::int64_t t = 0; t < 41; ++t) {
        const bool labelled = b != 1 && t > 3 + b && t < 9 + 5 * b;
        labels.as<std::int64_t>()[b * 41 + t] = labelled ? ids.as<std::int64_t>()[b * 41 + t] : -100;
      }
  }
};

struct Step {
  double loss;
  std::vector<std::vector<double>> gradients;
};

Step run_step(ThinkerModel& model, Device& device, const PaddedBatch& batch, Padding padding) {
  model.store.forget_gradients();
  Tape tape(device);
  const TextLoss loss = text_loss(tape, model.thinker, batch.ids, batch.labels, padding);
  tape.backward(loss.loss);
  model.store.complete_gradients();
  Step out{values_of(loss.loss)[0], {}};
  for (const auto& [name, gradient] : model.store.named_gradients()) out.gradients.push_back(values_of(gradient));
  return out;
}

}  // namespace

TEST_CASE("skipping what padding cannot change leaves loss and gradients as they are") {
  for (const bool use_moe : {false, true}) {
    CAPTURE(use_moe);
    Device device = Device::cpu();
    const auto model = ThinkerModel::create(small_config(use_moe), DType::f32, 7, device);
    const PaddedBatch batch;
    const Step all = run_step(*model, device, batch, Padding::compute),
               less = run_step(*model, device, batch, Padding::skip);
    REQUIRE(std::abs(all.loss - less.loss) <= 1e-6 * all.loss);
    for (std::size_t i = 0; i < all.gradients.size(); ++i) {
      double scale = 0;
      for (const double value : all.gradients[i]) scale = std::max(scale, std::abs(value));
      for (std::size_t j = 0; j < all.gradients[i].size(); ++j)
        REQUIRE(std::abs(all.gradients[i][j] - less.gradients[i][j]) <= 1e-5 * scale);
    }
  }
}

TEST_CASE("activations in the memory of gradients change none of them, and give way to those of an earlier pass") {
  for (const bool use_moe : {false, true}) {
    CAPTURE(use_moe);
    Device device = Device::cpu();
    ThinkerConfig config = small_config(use_moe);
    config.num_hidden_layers = 4;
    config.intermediate_size = config.moe_intermediate_size = 64;
    const auto model = ThinkerModel::create(config, DType::f32, 7, device);
    ParameterStore& store = model->store;
    const OwnedTensor ids = random_ids({2, 5}, 5, 37);
    Tape tape(device);
    const View block = store.gradient();
    // The gradients, and how many blocks' inputs lay among them.
    const auto pass = [&] {
      tape.reset();
      int inside = 0;
      const TextLoss loss =
          text_loss(tape, model->thinker, ids, ids, Padding::compute, [&](const std::string&, const ConstView& value) {
            const auto* data = value.as<float>();
            inside += data >= block.as<float>() && data < block.as<float>() + block.count();
          });
      tape.backward(loss.loss);
      for (const Parameter& parameter : store.parameters()) REQUIRE(parameter.has_gradient);
      return std::pair(values_of(block), inside);
    };
    device.run(Fill{.y = block, .value = 0});  // also between the gradients
    const auto [once, lent] = pass();
    REQUIRE(lent >= 2);
    REQUIRE(pass().second == 0);
    std::vector<double> doubled = once;
    for (double& value : doubled) value *= 2;
    REQUIRE_CLOSE(block, doubled, tolerance(DType::f32, 10));
    store.forget_gradients();
    REQUIRE(pass().first == once);
  }
}

TEST_CASE("gradients of the whole model agree with differences in double") {
  for (const bool use_moe : {false, true}) {
    CAPTURE(use_moe);
    ThinkerConfig config = small_config(use_moe);
    config.num_hidden_layers = 1;
    config.vocab_size = 11;
    config.hidden_size = 8;
    config.intermediate_size = config.moe_intermediate_size = 6;
    config.router_aux_loss_coef = 0;  // exists on recording tapes only, differences need the value on any tape
    ParameterStore store;
    Thinker thinker(Scope(store), config);
    Device device = Device::cpu();
    store.allocate(DType::f64, Purpose::training, device);
    store.initialize(6);
    std::vector<Parameter*> parameters;
    for (Parameter& parameter : store.parameters()) {
      parameters.push_back(&parameter);
      // Larger than at the start of training, so that every path matters.
      for (std::int64_t i = 0; i < parameter.master.count(); ++i)
        parameter.master.as<double>()[i] *= parameter.parts[0].shape.rank() == 1 ? 1.5 : 8;
    }
    const OwnedTensor ids = random_ids({2, 5}, 1, 11);
    REQUIRE(gradcheck([&](Tape& tape, const std::vector<Tensor>&) { return text_loss(tape, thinker, ids, ids).loss; },
                      {}, parameters, {.step = 1e-4}) <= 1e-6);
  }
}

TEST_CASE("a changed id leaves the logits of earlier positions as they are") {
  Device device = Device::cpu();
  const auto model = ThinkerModel::create(small_config(false), DType::f32, 7, device);
  const OwnedTensor ids = random_ids({1, 23}, 5, 37);
  const auto logits = [&] {
    Tape tape(device, false);
    return values_of(model->thinker.logits(tape, model->thinker(tape, ids).hidden));
  };
  const std::vector<double> before = logits();
  const std::int64_t changed = 11;
  ids.as<std::int64_t>()[changed] = (ids.as<std::int64_t>()[changed] + 1) % 37;
  const std::vector<double> after = logits();
  for (std::size_t i = 0; i < changed * 37; ++i) REQUIRE(before[i] == after[i]);
  REQUIRE(before != after);
}

TEST_CASE("decoding with a cache gives the logits of a full pass") {
  for (const bool use_moe : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(use_moe, name_of(dtype));
      const TemporaryFolder folder;
      Device device = Device::cpu();
      ThinkerModel::create(small_config(use_moe), DType::f32, 7, device)->save(folder.path() / "model", dtype);
      const auto model = ThinkerModel::load(folder.path() / "model", dtype, Purpose::inference, device);
      const std::vector<std::int32_t> ids{3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9, 32, 3, 8};
      TextSequence steps(device, *model, 32);
      View last = steps.show(std::span(ids).first(6));
      for (std::size_t i = 6; i < ids.size(); ++i) last = steps.append(ids[i]);
      TextSequence whole(device, *model, 32);
      const std::vector<double> expected = values_of(whole.show(ids));
      const std::vector<double> stepwise = values_of(last);
      for (std::size_t i = 0; i < expected.size(); ++i)
        REQUIRE(std::abs(stepwise[i] - expected[i]) <= (dtype == DType::bf16 ? 2e-2 : 1e-5));
      // Another continuation of a common beginning computes only what is new, with the same result.
      std::vector<std::int32_t> other(ids.begin(), ids.begin() + 9);
      other.push_back(1);
      const std::vector<double> kept = values_of(steps.show(other));
      TextSequence fresh(device, *model, 32);
      const std::vector<double> anew = values_of(fresh.show(other));
      for (std::size_t i = 0; i < kept.size(); ++i)
        REQUIRE(std::abs(kept[i] - anew[i]) <= (dtype == DType::bf16 ? 2e-2 : 1e-5));
    }
}

TEST_CASE("a saved model is the same when loaded; errors name file and parameter") {
  const TemporaryFolder folder;
  Device device = Device::cpu();
  const auto model = ThinkerModel::create(small_config(true), DType::f32, 7, device);
  model->save(folder.path() / "m", DType::f32);
  const auto loaded = ThinkerModel::load(folder.path() / "m", DType::f32, Purpose::training, device);
  REQUIRE(same_bits(model->store.master(), loaded->store.master()));
  REQUIRE(loaded->config == model->config);

  std::vector<OwnedTensor> memory;
  std::vector<NamedView> tensors = checkpoint_tensors(model->store, memory);
  std::erase_if(tensors, [](const NamedView& one) { return one.name == "model.layers.0.self_attn.k_proj.weight"; });
  write_safetensors(folder.path() / "m" / "model.safetensors", tensors);
  REQUIRE_THROWS_WITH(ThinkerModel::load(folder.path() / "m", DType::f32, Purpose::training, device),
                      Catch::Contains("m: no tensor") && Catch::Contains("k_proj"));
  ThinkerConfig other = small_config(true);
  other.vocab_size = 38;
  ThinkerModel::create(other, DType::f32, 7, device)->save(folder.path() / "m", DType::f32);
  write_text_file(folder.path() / "m" / "config.json", small_config(true).to_json().dump());
  REQUIRE_THROWS_WITH(ThinkerModel::load(folder.path() / "m", DType::f32, Purpose::training, device),
                      Catch::Contains("embed_tokens") && Catch::Contains("[37, 16]") && Catch::Contains("[38, 16]"));
}

TEST_CASE("the 0.1B configurations have the original's number of parameters") {
  for (const bool use_moe : {false, true}) {
    ThinkerConfig config;
    config.use_moe = use_moe;
    ParameterStore store;
    const Thinker thinker(Scope(store), config);
    REQUIRE(store.parameter_count() == (use_moe ? 198'416'640 : 63'912'192));
  }
}

}  // namespace omni
