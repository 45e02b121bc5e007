#pragma once
// Samples of the omni stages in WebDataset shards: plain tar archives, a sample being the members that share a key.
//
//   KEY.json            {"conversations": [{"role": ..., "content": ...}, ...]}; the list may be JSON text, too
//   KEY.answer.N.npy    integer codes [frames, 8] of assistant turn N, from 0
//   KEY.reference.npy   integer codes [frames, 8] of a clip of the answering voice
//   KEY.speaker.npy     float [192]
//   KEY.question.N.wav  (mp3, flac, ogg) the recorded question of user turn N: kept, not used
//   KEY.question.N.npy  float [rows, 512], the audio encoder's states of it
//   KEY.image.jpg       (jpeg, png, webp) the picture: kept, not used
//   KEY.image.npy       float [64, 768], the image encoder's states of it
//
// All but the first may be missing. Others are ignored here; `prepare_data validate` reports them.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainers/omni_row.h"

namespace omni {

// The .tar files that the paths name; of a folder those directly in it, sorted. Throws std::runtime_error for a path
// that does not exist and for a folder without shards.
std::vector<std::filesystem::path> list_shards(const std::vector<std::filesystem::path>& files_or_folders);

// Shards open for random access (trainers/shard_index.h). All members may be called from several threads; errors are
// std::runtime_error and name the shard and the key or the byte.
class ShardSet {
 public:
  explicit ShardSet(const std::vector<std::filesystem::path>& files_or_folders, const OmniRowLimits& limits = {});
  ~ShardSet();
  ShardSet(ShardSet&&) = delete;

  std::int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
  std::string key(std::int64_t sample) const;    // reads the sample's first header
  std::string place(std::int64_t sample) const;  // "<shard>: <key>"
  // Throws BadSample (trainers/samples.h) naming shard and key if the sample has an error.
  OmniRow read(std::int64_t sample) const;
  // All members in their order, with at most `recording_bytes` of each recording, picture and unknown member. A file
  // that has no key has its whole path as name.
  std::vector<ShardMember> members(std::int64_t sample, std::size_t recording_bytes = SIZE_MAX) const;

  std::uint64_t bytes() const { return bytes_; }              // of all shards
  std::uint64_t fingerprint() const { return fingerprint_; }  // of all members' names and sizes, in their order
  const OmniRowLimits& limits() const { return limits_; }

 private:
  struct Shard;
  struct Place;
  void open(const std::vector<std::filesystem::path>& paths);
  Place find(std::int64_t sample) const;

  OmniRowLimits limits_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::int64_t> ends_;  // samples up to and with each shard
  std::uint64_t bytes_ = 0, fingerprint_ = 0;
};

}  // namespace omni
