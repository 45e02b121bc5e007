#pragma once
// Where the samples of a tar shard begin. A sample is a run of members that share their key: the path up to the first
// dot of the file's name, "a/0001" of "a/0001.answer.0.npy".

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/mapped_file.h"
#include "trainers/tar_reader.h"

namespace omni {

struct MemberName {
  std::string_view key;    // empty for a file that belongs to no sample: ".x", "readme"
  std::string_view field;  // behind the key's dot
};
MemberName split_member_name(std::string_view path);

// Passes once over the headers and calls `begin` with the place of each sample; from there to the next one (or to the
// archive's end) lie its members. Returns a hash of all members' names and sizes. Throws std::runtime_error naming
// `name`, and the key or the byte: an archive that is damaged, cut off or followed by something; a member that appears
// twice; a key whose members lie apart.
std::uint64_t scan_shard(const ReadAt& source, std::uint64_t bytes, const std::string& name,
                         const std::function<void(std::uint64_t begin)>& begin);

// The result of a scan in a file that is mapped, so that memory does not grow with the number of samples. It is kept
// beside the shard as "<shard>.index" and made again when the shard's size or time of change is another, or when it is
// damaged. Where it cannot be written it lives in an unlinked temporary file.
class ShardIndex {
 public:
  ShardIndex(const std::filesystem::path& shard, const FileDescriptor& file);

  std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
  std::uint64_t begin(std::int64_t sample) const { return begins_[static_cast<std::size_t>(sample)]; }
  std::uint64_t end(std::int64_t sample) const { return begins_[static_cast<std::size_t>(sample) + 1]; }
  std::uint64_t bytes() const { return begins_.back(); }
  std::uint64_t hash() const { return hash_; }

 private:
  struct Header;
  bool use(MappedFile file, const Header& expected);

  std::optional<MappedFile> file_;
  std::span<const std::uint64_t> begins_;  // [samples + 1]; the last is the shard's size
  std::uint64_t hash_ = 0;
};

}  // namespace omni
