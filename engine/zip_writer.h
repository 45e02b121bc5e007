#pragma once
// Writes a zip archive of stored members whose bytes begin at multiples of 64 in the file, which libzip cannot promise.
// Format: APPNOTE.TXT 6.3, PKWARE; 64-bit extension where sizes or offsets need it.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace omni {

// The checksum of zip, gzip and PNG (polynomial 0xedb88320). Continues from the checksum of the bytes before.
std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before = 0);

class ZipWriter {
 public:
  // Receives the archive's bytes, in order.
  using Sink = std::function<void(const void* data, std::size_t bytes)>;

  // Sizes and offsets from `wide_from` on use the 64-bit extension: a parameter so that tests need no 4 GiB file.
  explicit ZipWriter(Sink sink, std::uint64_t wide_from = 0xffffffff) : sink_(std::move(sink)), wide_from_(wide_from) {}

  void add(const std::string& name, std::span<const std::byte> bytes);
  void add(const std::string& name, std::string_view text) { add(name, std::as_bytes(std::span(text))); }
  void finish();  // writes the directory

  struct Member {
    std::string name;
    std::uint64_t size, offset;  // offset of the local header
    std::uint32_t checksum;
  };
  const std::vector<Member>& members() const { return members_; }

 private:
  void write(const void* data, std::size_t bytes);

  Sink sink_;
  std::uint64_t wide_from_, written_ = 0;
  std::vector<Member> members_;
};

}  // namespace omni
