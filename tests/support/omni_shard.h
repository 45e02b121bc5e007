#pragma once
// Samples of shards for tests: members with the content that trainers/shards.h describes.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/npy.h"
#include "tests/support/tar.h"

namespace omni {

using ShardFiles = std::vector<std::pair<std::string, std::string>>;  // path and bytes

// frames * 8 codes below `limit` that differ between frames, codebooks and seeds.
inline std::vector<std::int64_t> some_codes(std::int64_t frames, std::int64_t seed, std::int64_t limit = 2048) {
  std::vector<std::int64_t> codes;
  for (std::int64_t i = 0; i < frames * 8; ++i) codes.push_back((i * 37 + seed * 101) % limit);
  return codes;
}
inline std::vector<float> some_floats(std::int64_t count, std::int64_t seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>((i * 31 + seed * 17) % 201 - 100) / 64);
  return values;
}
inline std::string codes_file(std::int64_t frames, std::int64_t seed, std::int64_t limit = 2048) {
  return npy_file(some_codes(frames, seed, limit), {frames, 8});
}

// Two turns with everything that a sample can have. `seed` also gives the lengths.
inline ShardFiles full_sample(const std::string& key, std::int64_t seed) {
  return {
      {key + ".json",
       R"({"conversations": [{"role": "user", "content": "one <image>"}, {"role": "assistant", "content": "two"},
                             {"role": "user", "content": "three"}, {"role": "assistant", "content": "vier é"}]})"},
      {key + ".answer.0.npy", codes_file(5 + seed, seed)},
      {key + ".answer.1.npy", codes_file(3, seed + 1)},
      {key + ".reference.npy", codes_file(4, seed + 2)},
      {key + ".speaker.npy", npy_file(some_floats(192, seed), {192})},
      {key + ".question.1.wav", "RIFF\1\2\3\4WAVEfmt "},
      {key + ".question.1.npy", npy_file(some_floats(2 * 512, seed), {2, 512})},
      {key + ".image.png", "\x89PNG...."},
      {key + ".image.npy", npy_file(some_floats(64 * 768, seed), {64, 768})},
  };
}

// A question and an answer with codes.
inline ShardFiles small_sample(const std::string& key, std::int64_t seed) {
  return {{key + ".json",
           R"({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})"},
          {key + ".answer.0.npy", codes_file(2, seed)}};
}

inline std::string shard_of(const std::vector<ShardFiles>& samples) {
  ShardFiles all;
  for (const ShardFiles& sample : samples) all.insert(all.end(), sample.begin(), sample.end());
  return tar_file(all);
}

}  // namespace omni
