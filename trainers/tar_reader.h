#pragma once
// The members of a tar archive, in order, read through libarchive. What is not asked for is skipped, not read.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "engine/files.h"

struct archive;
struct archive_entry;

namespace omni {

// Reads up to `bytes` bytes at `offset`; returns how many there were, 0 only at the end.
using ReadAt = std::function<std::size_t(std::uint64_t offset, void* to, std::size_t bytes)>;

// Reads of an open file, which must outlive the result. May be used from several threads.
ReadAt read_at(const FileDescriptor& file, const std::filesystem::path& path);

// Uncompressed tar in any of its dialects (ustar, pax, GNU). `begin` and `end` enclose whole members, for example all
// of the file. Errors are std::runtime_error and name `name`, the place in the file and what libarchive found.
class TarReader {
 public:
  TarReader(ReadAt source, std::uint64_t begin, std::uint64_t end, std::string name);
  ~TarReader();
  TarReader(TarReader&&) = delete;

  // Goes to the next member that is a file or a folder; false at the end. A link or a device is an error.
  bool next();

  // Of the member that next() found:
  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  bool is_folder() const { return folder_; }
  std::uint64_t offset() const { return offset_; }  // of its header, in the file
  std::string read(std::size_t max = SIZE_MAX);     // its first `max` bytes; once per member

  // Behind the last member, after next() returned false: where the archive's end mark should be.
  std::uint64_t members_end() const { return members_end_; }

 private:
  struct Source;
  struct Close {
    void operator()(archive* reader) const;
  };
  [[noreturn]] void fail(const std::string& problem) const;
  void check(int result) const;

  std::string name_, path_;
  std::unique_ptr<Source> source_;
  std::unique_ptr<archive, Close> archive_;
  archive_entry* entry_ = nullptr;
  std::uint64_t offset_ = 0, size_ = 0, members_end_ = 0;
  bool folder_ = false;
};

}  // namespace omni
