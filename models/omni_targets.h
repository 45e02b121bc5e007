#pragma once
// What the objective of the omni model looks at: which positions see a label, and what is to be predicted there.

#include "models/omni_inputs.h"

namespace omni {

// Host values for OmniInputs; a batch without labels has none. Used by upload_inputs alone.
class OmniTargets {
 public:
  OmniTargets(const OmniConfig& config, const OmniBatch& batch, const UploadOptions& options);

  std::int64_t columns() const { return columns_; }  // of a sample that any label sees
  std::int64_t integers() const;                     // that take() takes
  void take(IntegerBlock& block);
  void write(OmniInputs& out, const IntegerBlock& block, Tape& tape, DType dtype) const;

 private:
  // Positions of the first `columns` columns of each sample, those with a label.
  struct Rows {
    std::int64_t columns = 0, count = 0;  // count is rounded up
    std::vector<std::int64_t> source;     // [count], -1 behind the last
  };
  template <class HasLabel>
  Rows labelled(std::int64_t columns, const HasLabel& has_label) const;
  std::int64_t label(const ConstView& labels, std::int64_t row, std::int64_t column) const {
    return labels.as<std::int64_t>()[row * time_ + column];
  }
  std::int64_t audio_label(std::int64_t codebook, std::int64_t position) const;  // position among columns()
  bool is_spoken(std::int64_t sample, std::int64_t column) const;
  std::vector<float> audio_weights() const;
  std::vector<float> hit_kinds() const;

  const OmniConfig& config_;
  const OmniBatch& batch_;
  const UploadOptions& options_;
  std::int64_t samples_, time_, columns_;
  bool has_labels_, skip_, trims_upper_ = false;
  Rows text_, audio_;
  CodebookMapsInBlock maps_;
  std::int64_t *text_source_ = nullptr, *text_inverse_ = nullptr, *audio_source_ = nullptr, *audio_inverse_ = nullptr,
               *upper_source_ = nullptr, *upper_inverse_ = nullptr, *text_targets_ = nullptr, *audio_targets_ = nullptr;
};

}  // namespace omni
