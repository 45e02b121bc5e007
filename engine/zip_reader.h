#pragma once
// The zip container of a .pth file, read through libzip.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "engine/memory.h"

struct zip;

namespace omni {

// An archive in memory whose members are stored without compression below one folder: "<folder>/data.pkl" and others.
class StoredZip {
 public:
  // The bytes must outlive the object. Throws std::runtime_error naming `name` if this is no such archive.
  StoredZip(std::span<const std::byte> bytes, const std::string& name);

  bool contains(std::string_view member) const;
  // The content of "<folder>/<member>", its checksum verified. Reading more bytes in total than the archive has is an
  // error: only members that overlap make that possible.
  Buffer read(std::string_view member);

 private:
  std::string path(std::string_view member) const { return folder_ + "/" + std::string(member); }
  [[noreturn]] void fail(std::string_view member, const std::string& problem) const;

  struct Close {
    void operator()(zip* archive) const;
  };
  std::string name_, folder_;
  std::unique_ptr<zip, Close> archive_;
  std::uint64_t unread_;
};

}  // namespace omni
