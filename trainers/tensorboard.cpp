#include "trainers/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <stdexcept>

namespace omni {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);  // the polynomial, bits reversed
    table[byte] = crc;
  }
  return table;
}();

template <class Word>
void append_little_endian(std::string& out, Word word) {
  for (std::size_t i = 0; i < sizeof word; ++i) out += static_cast<char>(word >> 8 * i & 0xff);
}

// TFRecord masks its checksums, so that a checksum of data that holds checksums keeps its worth.
std::uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

// The wire format of protocol buffers: a field is its number and the kind of its value, then the value.
namespace proto {

void varint(std::string& out, std::uint64_t number) {
  for (; number >= 0x80; number >>= 7) out += static_cast<char>(number | 0x80);
  out += static_cast<char>(number);
}
void integer(std::string& out, unsigned field, std::int64_t value) {
  varint(out, field << 3 | 0);
  varint(out, static_cast<std::uint64_t>(value));
}
void number(std::string& out, unsigned field, double value) {
  varint(out, field << 3 | 1);
  append_little_endian(out, std::bit_cast<std::uint64_t>(value));
}
void number(std::string& out, unsigned field, float value) {
  varint(out, field << 3 | 5);
  append_little_endian(out, std::bit_cast<std::uint32_t>(value));
}
void bytes(std::string& out, unsigned field, std::string_view value) {  // strings and messages
  varint(out, field << 3 | 2);
  varint(out, value.size());
  out += value;
}

}  // namespace proto

// Fields of tensorflow/core/util/event.proto and framework/summary.proto.
enum Event : unsigned { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum Summary : unsigned { kValue = 1 };
enum Value : unsigned { kTag = 1, kSimpleValue = 2 };
enum SessionLog : unsigned { kStatus = 1 };
constexpr std::int64_t kStart = 1;  // a value of SessionLog.status

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

// TensorBoard reads the files of a folder in the order of their names. So the number in a new name is the time, or more
// if a file is from this very second, or from a clock that was ahead.
std::int64_t next_number(const std::filesystem::path& folder) {
  auto number = static_cast<std::int64_t>(now());
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    std::int64_t other = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), other);
    if (other < 9'999'999'999) number = std::max(number, other + 1);  // ten digits: their order is that of the names
  }
  return number;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == 0) return "localhost";
  return name.data();
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char byte : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

TensorBoardFile::TensorBoardFile(const std::filesystem::path& folder, std::int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw_file_error("create", folder, error.value());
  path_ = folder / (std::string(kPrefix) + std::to_string(next_number(folder)) + "." + host_name());
  file_ = FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
  if (!file_) throw_file_error("create", path_);
  std::string version, session, start;
  proto::number(version, kWallTime, now());
  proto::bytes(version, kFileVersion, "brain.Event:2");
  write_record(version);
  proto::integer(session, kStatus, kStart);
  proto::number(start, kWallTime, now());
  proto::integer(start, kStep, first_step);
  proto::bytes(start, kSessionLog, session);
  write_record(start);
}

void TensorBoardFile::write(std::int64_t step, double wall_time,
                            std::span<const std::pair<std::string, double>> scalars) {
  summary_.clear();
  for (const auto& [tag, number] : scalars) {
    value_.clear();
    proto::bytes(value_, kTag, tag);
    proto::number(value_, kSimpleValue, static_cast<float>(number));
    proto::bytes(summary_, kValue, value_);
  }
  event_.clear();
  proto::number(event_, kWallTime, wall_time);
  proto::integer(event_, kStep, step);
  proto::bytes(event_, kSummary, summary_);
  write_record(event_);
}

// u64 length, u32 checksum of the length, data, u32 checksum of the data
void TensorBoardFile::write_record(const std::string& event) {
  record_.clear();
  append_little_endian(record_, std::uint64_t{event.size()});
  append_little_endian(record_, masked_crc(record_));
  record_ += event;
  append_little_endian(record_, masked_crc(event));
  write_all(file_, path_, record_);
}

void TensorBoardFile::flush() {
  if (::fsync(file_.get()) != 0) throw_file_error("flush", path_);
}

}  // namespace omni
