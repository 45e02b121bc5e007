// The omni model: its size, its configuration, its gradients, its causality, its files.

#include <cmath>
#include <map>

#include "autograd/gradcheck.h"
#include "engine/files.h"
#include "models/omni_model.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

// Two samples of 9 positions: sound in the first, a picture in both, a speaker marker, labels at the end.
struct SmallBatch {
  static constexpr std::int64_t kBatch = 2, kTime = 9;
  OwnedTensor ids = random_ids({kBatch, kCodebooks + 1, kTime}, 1, 8), text_labels = random_ids({kBatch, kTime}, 2, 41),
              audio_labels = random_ids({kBatch, kCodebooks, kTime}, 3, 10);
  OwnedTensor audio_states = randn({kBatch, 3, 6}, 4, DType::f32), audio_lens = zeros(DType::i64, {kBatch}),
              image_states = randn({kBatch, 4, 5}, 5, DType::f32), spk_emb = randn({kBatch, 4}, 6, DType::f32);

  explicit SmallBatch(const OmniConfig& config) {
    const auto text = [&](std::int64_t b, std::int64_t t) -> std::int64_t& {
      return ids.as<std::int64_t>()[(b * (kCodebooks + 1) + kCodebooks) * kTime + t];
    };
    for (const std::int64_t t : {1, 2, 3, 4}) text(0, t) = config.audio_placeholder_id;  // more than there are states
    for (const std::int64_t b : {0, 1})
      for (const std::int64_t t : {5, 6}) text(b, t) = config.image_placeholder_id;
    audio_lens.as<std::int64_t>()[0] = 3;
    for (std::int64_t c = 0; c < kCodebooks; ++c)
      ids.as<std::int64_t>()[(kCodebooks + 1 + c) * kTime + 2] = config.audio_spk_token;
    for (std::int64_t i = 0; i < text_labels.view().count(); ++i)
      if (i % kTime < 4) text_labels.as<std::int64_t>()[i] = -100;
    for (std::int64_t i = 0; i < audio_labels.view().count(); ++i)
      if (i % kTime < 3 + i / kTime % kCodebooks / 2) audio_labels.as<std::int64_t>()[i] = -100;
  }
  OmniBatch view() const {
    return {.input_ids = ids,
            .text_labels = text_labels,
            .audio_labels = audio_labels,
            .audio_states = audio_states,
            .audio_lens = audio_lens,
            .image_states = image_states,
            .spk_emb = spk_emb};
  }
};

}  // namespace

TEST_CASE("the omni model has exactly the original's number of parameters") {
  for (const auto& [use_moe, expected] : {std::pair(false, 113131266), std::pair(true, 314887938)}) {
    OmniConfig config;
    config.thinker.use_moe = use_moe;
    ParameterStore store;
    const Omni omni(Scope(store), config);
    REQUIRE(store.parameter_count() == expected);
  }
}

TEST_CASE("omni gradients of the whole model agree with differences in double") {
  // Without experts: the Talker's balancing loss exists on recording tapes only, and differences need its value.
  OmniConfig config = small_config(false);
  config.thinker.hidden_size = 8;  // every number is moved, and costs two passes
  config.thinker.head_dim = 4;
  ParameterStore store;
  Omni omni(Scope(store), config);
  Device device = Device::cpu();
  store.allocate(DType::f64, Purpose::training, device);
  store.initialize(6);
  std::vector<Parameter*> parameters;
  // The feed-forward matrices are most of the numbers; their op is checked elsewhere.
  for (Parameter& parameter : store.parameters())
    if (parameter.master.count() <= 600) parameters.push_back(&parameter);
  const SmallBatch batch(config);
  REQUIRE(gradcheck(
              [&](Tape& tape, const std::vector<Tensor>&) {
                return omni_loss(tape, omni, upload_inputs(tape, config, batch.view(), DType::f64)).loss;
              },
              {}, parameters, {.step = 1e-4}) <= 1e-6);
}

// Several processes send a part of the gradients at each milestone (autograd/gradient_sum.h).
TEST_CASE("omni: at a milestone the gradients of what was declared after it are final") {
  Device device = Device::cpu();
  const OmniConfig config = small_config(false);
  const auto model = OmniModel::create(config, DType::f32, 3, device);
  const SmallBatch batch(config);
  ParameterStore& store = model->store;
  const std::vector<const Parameter*> milestones = model->omni.milestones();
  REQUIRE(milestones.size() == 2);
  std::vector<std::pair<std::int64_t, std::vector<double>>> seen;  // offset of a milestone, gradients from there on
  const auto from = [&](std::int64_t offset) {
    return values_of(slice(store.gradient(), offset, {store.gradient().count() - offset}));
  };
  store.complete_gradients();
  Tape tape(device);
  const OmniLoss loss = omni_loss(tape, model->omni, upload_inputs(tape, config, batch.view(), DType::f32));
  tape.set_milestone_listener([&](const Parameter& reached) {
    if (std::find(milestones.begin(), milestones.end(), &reached) == milestones.end()) return;
    const std::int64_t offset = store.offset_of(reached);
    seen.emplace_back(offset, from(offset));
  });
  tape.backward(loss.loss);
  REQUIRE(seen.size() == milestones.size());
  for (const auto& [offset, gradients] : seen) REQUIRE(gradients == from(offset));
}

TEST_CASE("omni: below what learns no op is recorded, and what learns gets the same gradients") {
  Device device = Device::cpu();
  for (const bool use_moe : {false, true})
    for (const bool has_states : {false, true}) {
      const OmniConfig config = small_config(use_moe);
      const auto model = OmniModel::create(config, DType::f32, 3, device);
      const SmallBatch batch(config);
      OmniBatch view = batch.view();
      if (!has_states) view.audio_states = view.audio_lens = view.image_states = {};
      // Gradients of the parameters that learn, the loss behind them.
      const auto run = [&](std::size_t& ops) {
        model->store.forget_gradients();
        Tape tape(device);
        const OmniLoss loss = omni_loss(tape, model->omni, upload_inputs(tape, config, view, DType::f32));
        tape.backward(loss.loss);
        ops = tape.op_count();
        std::map<std::string, std::vector<double>> out{{"loss", values_of(loss.loss)}};
        for (const Parameter& parameter : model->store.parameters())
          if (parameter.trainable && parameter.has_gradient)
            out[parameter.parts.front().name] = values_of(parameter.gradient);
        return out;
      };
      std::size_t all_ops = 0;
      const auto expected = run(all_ops);
      for (const std::string& last : {std::string("none"), std::string("model.layers.1.")}) {
        CAPTURE(use_moe, has_states, last);
        for (Parameter& parameter : model->store.parameters()) {
          const std::string& name = parameter.parts.front().name;
          parameter.trainable = !name.starts_with("model.") || name.starts_with(last);
        }
        std::size_t ops = 0;
        const auto actual = run(ops);
        REQUIRE(actual.size() > 20);
        for (const auto& [name, values] : actual) {
          CAPTURE(name);
          REQUIRE(values == expected.at(name));
        }
        // The states of sound and pictures reach the loss through every block.
        REQUIRE(ops + (has_states ? 1 : last == "none" ? 8 : 4) <= all_ops);
      }
    }
}

TEST_CASE("omni: nothing at a position depends on what comes after it") {
  Device device = Device::cpu();
  const OmniConfig config = small_config(false);
  const auto model = OmniModel::create(config, DType::f32, 3, device);
  const SmallBatch batch(config);
  const auto hidden = [&] {
    Tape tape(device, false);
    const Omni::Output out = model->omni(tape, upload_inputs(tape, config, batch.view(), DType::f32));
    return std::pair(values_of(out.text_hidden), values_of(out.audio_hidden));
  };
  const auto before = hidden();
  std::int64_t& last_code = batch.ids.as<std::int64_t>()[SmallBatch::kTime - 1];
  last_code = (last_code + 1) % 8;  // of codebook 0 in the first sample
  const auto after = hidden();
  REQUIRE(before.first == after.first);  // the Thinker hears no codes
  const std::size_t unchanged = (SmallBatch::kTime - 1) * 16;
  for (std::size_t i = 0; i < unchanged; ++i) REQUIRE(before.second[i] == after.second[i]);
  REQUIRE(before.second != after.second);
}

TEST_CASE("an omni model directory keeps configuration and weights; errors name the field") {
  const TemporaryFolder folder;
  Device device = Device::cpu();
  OmniConfig config = small_config(true);
  config.adapter_rank = 256;
  const auto model = OmniModel::create(config, DType::f32, 3, device);
  model->save(folder.path(), DType::f32);
  REQUIRE(load_omni_config(folder.path()) == config);
  const auto loaded = OmniModel::load(folder.path(), DType::f32, Purpose::training, device);
  REQUIRE(same_bits(loaded->store.master(), model->store.master()));
  REQUIRE_THROWS_WITH(parse_omni_config(R"({"talker_hidden_size": 100})", "c.json"),
                      Catch::Contains("c.json: talker_hidden_size: expected a multiple of 16"));
  REQUIRE_THROWS_WITH(parse_omni_config(R"({"audio_ids": [7000]})", "c.json"),
                      Catch::Contains("c.json: audio_ids: expected token ids below vocab_size"));
  REQUIRE_THROWS_WITH(parse_omni_config(R"({"bridge_layer": 8})", "c.json"), Catch::Contains("c.json: bridge_layer"));
  OmniBatch wrong = SmallBatch(config).view();
  const OwnedTensor two_rows = random_ids({2, 2, 9}, 1, 8);
  wrong.input_ids = two_rows;
  Tape tape(device);
  REQUIRE_THROWS_WITH(upload_inputs(tape, config, wrong, DType::f32),
                      Catch::Contains("input_ids: expected i64 [batch, 9, time], found i64 [2, 2, 9]"));
}

}  // namespace omni
