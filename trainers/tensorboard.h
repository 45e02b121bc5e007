#pragma once
// Training curves for TensorBoard, as the event files that it reads.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/files.h"

namespace omni {

// CRC-32C (Castagnoli), the checksum of TFRecord files. crc32c("123456789") is 0xe3069283.
std::uint32_t crc32c(std::string_view bytes);

// "events.out.tfevents.<seconds>.<host>": TFRecords that hold Event messages.
//
// As with metrics.jsonl, a resumed run continues the curves where it continues training. Older event files of the
// folder are left alone, but the new one begins by saying that a session starts at `first_step`: TensorBoard then drops
// what the files before it hold of that step and of later ones.
class TensorBoardFile {
 public:
  // Starts a new file in the folder, which is made if it is missing, behind all event files that are there. first_step:
  // the step of the first write. Errors are std::runtime_error naming the file.
  TensorBoardFile(const std::filesystem::path& folder, std::int64_t first_step);

  // One number per tag, kept in f32; wall_time in seconds since 1970. The record is in the file when this returns.
  void write(std::int64_t step, double wall_time, std::span<const std::pair<std::string, double>> scalars);
  void flush();  // to the disk

  const std::filesystem::path& path() const { return path_; }

 private:
  void write_record(const std::string& event);

  std::filesystem::path path_;
  FileDescriptor file_;
  std::string event_, summary_, value_, record_;  // memory that is used again
};

}  // namespace omni
