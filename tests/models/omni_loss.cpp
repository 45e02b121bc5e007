// The omni objective: what is skipped changes nothing, and a batch may be taken apart.

#include "models/omni.h"
#include "tests/models/small_omni.h"
#include "tests/support/numbers.h"

namespace omni {
namespace {

constexpr std::int64_t kBatch = 3, kTime = 40;

// Text ends before the codes do, and each row elsewhere; the last row has no codes.
struct RaggedBatch {
  OwnedTensor ids = random_ids({kBatch, kCodebooks + 1, kTime}, 1, 8), text_labels = random_ids({kBatch, kTime}, 2, 41),
              audio_labels = random_ids({kBatch, kCodebooks, kTime}, 3, 10),
              spk_emb = randn({kBatch, 4}, 4, DType::f32);

  explicit RaggedBatch(std::int64_t last_text = 11, std::int64_t last_code = 21) {
    for (std::int64_t b = 0; b < kBatch; ++b)
      for (std::int64_t t = 0; t < kTime; ++t) {
        if (t < 4 + b || t > last_text - 2 * b) text_labels.as<std::int64_t>()[b * kTime + t] = -100;
        for (std::int64_t q = 0; q < kCodebooks; ++q)
          if (b == 2 || t < 5 + q || t > last_code + q - 4 * b)
            audio_labels.as<std::int64_t>()[(b * kCodebooks + q) * kTime + t] = -100;
      }
  }
  OmniBatch view() const {
    OmniBatch out;
    out.input_ids = ids;
    out.text_labels = text_labels;
    out.audio_labels = audio_labels;
    out.spk_emb = spk_emb;
    return out;
  }
};

struct Result {
  std::vector<double> losses, hits, gradient;  // loss, text, audio, the codebooks'
};

// In double, so that another order of additions does not show.
class SmallOmni {
 public:
  explicit SmallOmni(bool use_moe) : config_(small_config(use_moe)), omni_(Scope(store_), config_) {
    store_.allocate(DType::f64, Purpose::training, device_);
    store_.initialize(6);
  }

  // The sum over passes of `rows` rows.
  Result run(const RaggedBatch& batch, Padding padding, std::int64_t rows, bool recompute = false) {
    const LabelCounts all = count_labels(batch.view());
    store_.forget_gradients();
    Result out{std::vector<double>(3 + kCodebooks, 0), std::vector<double>(3, 0), {}};
    for (std::int64_t first = 0; first < kBatch; first += rows) {
      const OmniBatch part = rows_of(batch.view(), first, std::min(first + rows, kBatch));
      const LabelCounts own = count_labels(part);
      UploadOptions options{.shares = {}, .count_hits = true, .padding = padding};
      options.shares.text = static_cast<double>(own.text) / static_cast<double>(all.text);
      for (std::size_t q = 0; q < kCodebooks; ++q)
        options.shares.audio[q] = static_cast<double>(own.audio[q]) / static_cast<double>(all.audio[q]);
      Tape tape(device_);
      tape.set_recompute(recompute);
      const OmniLoss loss = omni_loss(tape, omni_, upload_inputs(tape, config_, part, DType::f64, options));
      std::size_t at = 0;
      for (const Tensor& part_loss : {loss.loss, loss.text_loss, loss.audio_loss, loss.codebook_losses})
        for (const double value : values_of(part_loss)) out.losses[at++] += value;
      at = 0;
      for (const double value : values_of(loss.hits)) out.hits[at++] += value;
      tape.backward(loss.loss);
    }
    store_.complete_gradients();
    out.gradient = values_of(store_.gradient());
    return out;
  }

 private:
  Device device_ = Device::cpu();
  OmniConfig config_;
  ParameterStore store_;
  Omni omni_;
};

void require_equal(const Result& a, const Result& b) {
  const auto close = [](const std::vector<double>& x, const std::vector<double>& y) {
    REQUIRE(x.size() == y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      CAPTURE(i, x[i], y[i]);
      // Weights of the losses go through f32.
      REQUIRE(std::abs(x[i] - y[i]) <= 1e-6 * (1 + std::abs(y[i])));
    }
  };
  close(a.losses, b.losses);
  close(a.gradient, b.gradient);
  REQUIRE(a.hits == b.hits);
}

}  // namespace

TEST_CASE("omni_loss: computing only what a label sees gives the same loss and gradients") {
  for (const bool use_moe : {false, true}) {
    SmallOmni model(use_moe);
    for (const auto& [last_text, last_code] : {std::pair<std::int64_t, std::int64_t>{11, 21}, {30, 12}, {39, 39}}) {
      CAPTURE(use_moe, last_text, last_code);
      const RaggedBatch batch(last_text, last_code);
      const Result whole = model.run(batch, Padding::compute, kBatch);
      REQUIRE(whole.losses[0] > 1);
      require_equal(model.run(batch, Padding::skip, kBatch), whole);
    }
  }
}

TEST_CASE("omni_loss: what is not kept but made again in the backward pass gives the same loss and gradients") {
  for (const bool use_moe : {false, true})
    for (const Padding padding : {Padding::compute, Padding::skip}) {
      CAPTURE(use_moe);
      SmallOmni model(use_moe);
      const RaggedBatch batch;
      const Result expected = model.run(batch, padding, kBatch), actual = model.run(batch, padding, kBatch, true);
      require_equal(actual, expected);
      REQUIRE(model.run(batch, padding, kBatch, true).gradient == actual.gradient);
    }
}

TEST_CASE("omni_loss: the rows of a batch one after the other give its loss and gradients") {
  SmallOmni model(false);  // experts balance over a batch
  const RaggedBatch batch;
  const Result whole = model.run(batch, Padding::compute, kBatch);
  for (const Padding padding : {Padding::skip, Padding::compute})
    for (const std::int64_t rows : {1, 2}) require_equal(model.run(batch, padding, rows), whole);
}

TEST_CASE("omni_loss: hits count the targets that are the largest logits") {
  SmallOmni model(false);
  RaggedBatch batch;
  // The stop code is one of ten targets here, so some of each kind exist; all counts lie within the labels.
  const LabelCounts labels = count_labels(batch.view());
  const Result result = model.run(batch, Padding::skip, kBatch);
  std::int64_t codes = 0;
  for (const std::int64_t count : labels.audio) codes += count;
  REQUIRE(result.hits[0] <= static_cast<double>(labels.text));
  REQUIRE(result.hits[1] <= static_cast<double>(codes));
  REQUIRE(result.hits[2] <= result.hits[1]);
  REQUIRE(result.hits[1] > 0);
}

}  // namespace omni
