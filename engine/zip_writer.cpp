#include "engine/zip_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

namespace omni {
namespace {

constexpr std::uint64_t kAlignment = 64;
constexpr std::uint16_t kUtf8Names = 0x800, kPaddingTag = 0x4246, kWideTag = 1;
constexpr std::uint16_t kDosDate = 1 << 5 | 1;  // 1980-01-01, so that equal content gives equal files

// Eight tables let the loop take eight bytes at a time ("slicing by 8", Kounavis and Berry 2008).
constexpr auto kCrcTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    tables[0][byte] = value;
  }
  for (std::size_t byte = 0; byte < 256; ++byte)
    for (std::size_t k = 1; k < 8; ++k)
      tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 0xff];
  return tables;
}();

// Little-endian fields of a record.
class Record {
 public:
  Record& u16(std::uint64_t value) { return append(value, 2); }
  Record& u32(std::uint64_t value) { return append(value, 4); }
  Record& u64(std::uint64_t value) { return append(value, 8); }
  Record& text(std::string_view value) {
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Record& append(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) bytes_ += static_cast<char>(value >> 8 * i);
    return *this;
  }
  std::string bytes_;
};

// The fields that a local header and a directory entry have in common, from "version needed" to "extra field length".
void describe(Record& record, const ZipWriter::Member& member, bool wide_size, bool wide, std::size_t extra) {
  const std::uint64_t size = wide_size ? 0xffffffff : member.size;
  record.u16(wide ? 45 : 10).u16(kUtf8Names).u16(0).u16(0).u16(kDosDate);
  record.u32(member.checksum).u32(size).u32(size).u16(member.name.size()).u16(extra);
}

}  // namespace

std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before) {
  const auto& t = kCrcTables;
  const std::byte* next = bytes.data();
  std::size_t left = bytes.size();
  std::uint32_t crc = ~before;
  for (; left >= 8; left -= 8, next += 8) {
    std::uint32_t low, high;
    std::memcpy(&low, next, 4);
    std::memcpy(&high, next + 4, 4);
    low ^= crc;
    crc = t[7][low & 0xff] ^ t[6][low >> 8 & 0xff] ^ t[5][low >> 16 & 0xff] ^ t[4][low >> 24] ^ t[3][high & 0xff] ^
          t[2][high >> 8 & 0xff] ^ t[1][high >> 16 & 0xff] ^ t[0][high >> 24];
  }
  for (; left > 0; --left, ++next) crc = crc >> 8 ^ t[0][(crc ^ std::to_integer<std::uint32_t>(*next)) & 0xff];
  return ~crc;
}

void ZipWriter::write(const void* data, std::size_t bytes) {
  sink_(data, bytes);
  written_ += bytes;
}

void ZipWriter::add(const std::string& name, std::span<const std::byte> bytes) {
  if (name.size() > 0xffff) throw std::runtime_error("zip: a member name of " + std::to_string(name.size()) + " bytes");
  const Member member{name, bytes.size(), written_, crc32(bytes)};
  const bool wide = member.size >= wide_from_;
  constexpr std::uint64_t kHeader = 30, kTag = 4;
  const std::uint64_t wide_bytes = wide ? kTag + 16 : 0;
  const std::uint64_t begin = member.offset + kHeader + name.size() + wide_bytes + kTag;
  const std::uint64_t padding = (kAlignment - begin % kAlignment) % kAlignment;

  Record header;
  header.text("PK\x03\x04");
  describe(header, member, wide, wide, wide_bytes + kTag + padding);
  header.text(name);
  if (wide) header.u16(kWideTag).u16(16).u64(member.size).u64(member.size);
  header.u16(kPaddingTag).u16(padding).text(std::string(padding, 'Z'));
  write(header.bytes().data(), header.bytes().size());
  write(bytes.data(), bytes.size());
  members_.push_back(member);
}

void ZipWriter::finish() {
  const std::uint64_t directory = written_;
  for (const Member& member : members_) {
    const bool wide_size = member.size >= wide_from_, wide_offset = member.offset >= wide_from_;
    Record extra;
    if (wide_size || wide_offset) extra.u16(kWideTag).u16((wide_size ? 16 : 0) + (wide_offset ? 8 : 0));
    if (wide_size) extra.u64(member.size).u64(member.size);
    if (wide_offset) extra.u64(member.offset);
    Record entry;
    entry.text("PK\x01\x02").u16(wide_size || wide_offset ? 45 : 10);
    describe(entry, member, wide_size, wide_size || wide_offset, extra.bytes().size());
    entry.u16(0).u16(0).u16(0).u32(0).u32(wide_offset ? 0xffffffff : member.offset).text(member.name);
    entry.text(extra.bytes());
    write(entry.bytes().data(), entry.bytes().size());
  }
  const std::uint64_t end = written_, size = end - directory, count = members_.size();
  const bool wide = count >= 0xffff || size >= wide_from_ || directory >= wide_from_;
  Record tail;
  if (wide) {
    tail.text("PK\x06\x06").u64(44).u16(45).u16(45).u32(0).u32(0).u64(count).u64(count).u64(size).u64(directory);
    tail.text("PK\x06\x07").u32(0).u64(end).u32(1);
  }
  const std::uint64_t short_count = wide ? 0xffff : count;
  tail.text("PK\x05\x06").u16(0).u16(0).u16(short_count).u16(short_count);
  tail.u32(wide ? 0xffffffff : size).u32(wide ? 0xffffffff : directory).u16(0);
  write(tail.bytes().data(), tail.bytes().size());
}

}  // namespace omni
