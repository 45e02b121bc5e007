#pragma once
// What a pass of the omni model reads, brought to the device.

#include <array>
#include <optional>

#include "autograd/tape.h"
#include "engine/safetensors.h"
#include "models/integer_block.h"
#include "models/omni_config.h"
#include "models/padding.h"
#include "models/talker.h"

namespace omni {

// A batch in host memory.
struct OmniBatch {
  ConstView input_ids;                 // i64 [batch, 9, time]: eight rows of codes, then the text
  ConstView text_labels;               // i64 [batch, time], already shifted, -100: no label; absent without a loss
  ConstView audio_labels;              // i64 [batch, 8, time], the same
  ConstView audio_states, audio_lens;  // f32 [batch, rows, audio_hidden_size], i64 [batch]; both or none
  ConstView image_states;              // f32 [batch, rows, image_hidden_size], optional
  ConstView spk_emb;                   // f32 [batch, spk_emb_size], optional
};

// Rows [first, end) of a batch. Recordings are absent where none of the rows has any.
OmniBatch rows_of(const OmniBatch& batch, std::int64_t first, std::int64_t end);

// The tensors of these names in a file, which must outlive the batch; number `index` of files that hold several batches
// (each tensor then has a leading dimension).
OmniBatch read_omni_batch(const SafetensorsFile& file, std::optional<std::int64_t> index = {});

// All of it on the device, and the maps that the model's ops follow. rows = batch * time.
struct OmniInputs {
  std::int64_t batch = 0, time = 0;
  Tensor text_ids;                             // i64 [batch, time]; `time` without columns that no label sees
  Tensor codes, codes_in_tables;               // i64 [rows * 8], [8 * rows] (models/talker.h)
  CodebookMaps maps;                           // of all positions
  Tensor audio_states, image_states, speaker;  // [batch * rows, width], [batch, width]; absent if not given
  Tensor audio_source, image_source;  // i64 [rows]: which of those rows takes the place of a placeholder, or -1
  Tensor speaker_source;              // i64 [rows]: whose vector stands where codebook 0 holds the speaker code
  PickedRows upper;                   // positions that the Thinker's blocks behind the bridge go on with,
  std::int64_t upper_time = 0;        // so many of each sample; 0: all
  // With labels only; t and a positions are looked at by the heads.
  PickedRows text_rows, audio_rows;    // which; all if absent
  CodebookMaps head_maps;              // of a positions
  Tensor text_targets, audio_targets;  // i64 [t], [8 * a] codebook by codebook
  Tensor audio_weights;                // f32 [8 * a]: 10 where the target is the stop code, else 1; times a share
  Tensor text_weights;                 // f32 [t]; absent if all are 1
  Tensor hit_kinds;                    // f32 [3, t + 8 * a]: 1 for text, codes, stop codes; absent if not asked for
};

// Throws std::invalid_argument naming the operand that does not fit. With `content`, also for an id, a code or a label
// that the model does not have.
void check_batch(const OmniConfig& config, const OmniBatch& batch, bool content = false);

// Labels other than -100.
struct LabelCounts {
  std::int64_t text = 0;
  std::array<std::int64_t, kCodebooks> audio{};
};
LabelCounts count_labels(const OmniBatch& batch);

// What a loss is to be multiplied by, because the batch is a part of a larger one: its own labels / all labels.
struct LossShares {
  double text = 1;
  std::array<double, kCodebooks> audio = {1, 1, 1, 1, 1, 1, 1, 1};
};
struct UploadOptions {
  LossShares shares;
  bool count_hits = false;  // also say how many targets are the largest logits
  Padding padding = Padding::compute;
};

// What CodebookMaps holds, for `rows` positions: on the host, and within a block of integers.
void write_codebook_maps(std::int64_t rows, std::int64_t* starts, std::int64_t* by_codebook, std::int64_t* by_position);
class CodebookMapsInBlock {
 public:
  CodebookMapsInBlock() = default;
  CodebookMapsInBlock(IntegerBlock& block, std::int64_t rows);
  static std::int64_t integers(std::int64_t rows) { return kCodebooks + 1 + 2 * kCodebooks * rows; }
  CodebookMaps on_device(const IntegerBlock& block) const;

 private:
  std::int64_t rows_ = 0, *starts_ = nullptr, *by_codebook_ = nullptr, *by_position_ = nullptr;
};

// Audio: of each sample the first max(1, min(length, rows)) states go into the first run of placeholders, as many as
// fit; a sample of length 0 has none. Images: the first run of image placeholders takes the first rows of the sample's
// image. Throws std::invalid_argument naming the operand that does not fit.
OmniInputs upload_inputs(Tape& tape, const OmniConfig& config, const OmniBatch& batch, DType dtype,
                         const UploadOptions& options = {});

}  // namespace omni
