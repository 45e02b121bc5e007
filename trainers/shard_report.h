#pragma once
// Everything that is wrong with shards, and what is in them.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "trainers/omni_row.h"

namespace omni {

// Counts over samples without errors, but for the first four.
struct ShardReport {
  std::int64_t shards = 0, samples = 0;
  std::int64_t bad_samples = 0;  // with errors
  std::int64_t errors = 0;       // of samples and of whole shards
  std::int64_t warnings = 0;
  std::uint64_t bytes = 0;  // of all shards

  std::int64_t turns = 0, spoken_answers = 0, answer_frames = 0;
  std::int64_t encoded_questions = 0, recorded_questions = 0;  // with states; with a recording alone
  std::int64_t speakers = 0, references = 0;
  std::int64_t encoded_pictures = 0, plain_pictures = 0;

  std::string text() const;  // a table of a few lines
};

struct ShardReportEvents {
  std::function<void(const std::string&)> problem;   // "error: <shard>: <key>: <member>: ..." or "warning: ..."
  std::function<void(std::uint64_t done)> progress;  // bytes; called after each sample
};

// Reads all samples. A shard that cannot be opened is one error; the others are read nevertheless.
ShardReport report_shards(const std::vector<std::filesystem::path>& shards, const OmniRowLimits& limits,
                          const ShardReportEvents& events);

}  // namespace omni
