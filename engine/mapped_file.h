#pragma once
// A file seen as memory, read-only.

#include <cstddef>
#include <filesystem>
#include <span>
#include <utility>

namespace omni {

// Pages are read from the disk when they are first touched, and shared between processes that map the same file.
// Replacing the file by a rename leaves the mapping untouched; shortening it in place makes the lost pages fatal to
// read (SIGBUS), which no program of ours does.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  // throws std::runtime_error naming the file
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }  // page-aligned; empty for an empty file

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace omni
