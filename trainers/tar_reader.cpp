#include "trainers/tar_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace omni {
namespace {

constexpr std::uint64_t kBlock = 512;  // tar's unit: headers have one, contents are filled up to a multiple

// libarchive converts the names in a header to the locale's encoding and loses what that cannot say, which would make
// different keys equal. While one of these lives the calling thread's encoding is that of the archives.
class Utf8Locale {
 public:
  Utf8Locale() {
    static const locale_t utf8 = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    if (utf8 != nullptr) before_ = ::uselocale(utf8);
  }
  ~Utf8Locale() {
    if (before_ != nullptr) ::uselocale(before_);
  }
  Utf8Locale(Utf8Locale&&) = delete;

 private:
  locale_t before_ = nullptr;
};

}  // namespace

ReadAt read_at(const FileDescriptor& file, const std::filesystem::path& path) {
  return [&file, path](std::uint64_t offset, void* to, std::size_t bytes) {
    for (;;) {
      const ssize_t got = ::pread(file.get(), to, bytes, static_cast<off_t>(offset));
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) throw_file_error("read", path);
    }
  };
}

// What libarchive's callbacks work on. They are called by C code, through which no exception may fly.
struct TarReader::Source {
  ReadAt read;
  std::uint64_t at, begin, end;
  std::string error;
  std::array<char, 64 << 10> buffer;
  std::size_t step = buffer.size();  // bytes of the next read

  Source(ReadAt function, std::uint64_t first, std::uint64_t last)
      : read(std::move(function)), at(first), begin(first), end(last) {}

  static ssize_t on_read(archive* reader, void* self, const void** block) noexcept {
    Source& source = *static_cast<Source*>(self);
    *block = source.buffer.data();
    try {
      const std::size_t wanted = std::min<std::uint64_t>(source.step, source.end - source.at);
      source.step = std::min(source.step * 2, source.buffer.size());
      const std::size_t got = wanted == 0 ? 0 : source.read(source.at, source.buffer.data(), wanted);
      source.at += got;
      return static_cast<ssize_t>(got);
    } catch (const std::exception& error) {
      source.error = error.what();
      archive_set_error(reader, EIO, "%s", error.what());
      return -1;
    }
  }

  static la_int64_t on_skip(archive*, void* self, la_int64_t bytes) noexcept {
    Source& source = *static_cast<Source*>(self);
    const std::uint64_t step = std::min<std::uint64_t>(static_cast<std::uint64_t>(bytes), source.end - source.at);
    source.at += step;
    source.step = kBlock * 8;  // behind what was skipped stands a header, and perhaps another thing to skip
    return static_cast<la_int64_t>(step);
  }
};

void TarReader::Close::operator()(archive* reader) const { archive_read_free(reader); }

TarReader::TarReader(ReadAt source, std::uint64_t begin, std::uint64_t end, std::string name)
    : name_(std::move(name)),
      source_(std::make_unique<Source>(std::move(source), begin, std::max(begin, end))),
      archive_(archive_read_new()),
      members_end_(begin) {
  if (!archive_) throw std::bad_alloc();
  archive* reader = archive_.get();
  check(archive_read_support_format_tar(reader));
  check(archive_read_set_skip_callback(reader, Source::on_skip));
  check(archive_read_set_read_callback(reader, Source::on_read));
  check(archive_read_set_callback_data(reader, source_.get()));
  check(archive_read_open1(reader));
}

TarReader::~TarReader() = default;

void TarReader::fail(const std::string& problem) const {
  throw std::runtime_error(name_ + ": at byte " + std::to_string(offset_) + ", " + problem);
}

void TarReader::check(int result) const {
  if (result == ARCHIVE_OK) return;
  if (!source_->error.empty()) throw std::runtime_error(source_->error);
  const char* text = archive_error_string(archive_.get());
  fail(std::string("not a sound tar archive: ") + (text ? text : "unknown error"));
}

bool TarReader::next() {
  const Utf8Locale names_are_utf8;
  offset_ = members_end_;
  const int result = archive_read_next_header(archive_.get(), &entry_);
  if (result == ARCHIVE_EOF) return false;
  check(result);
  offset_ = source_->begin + static_cast<std::uint64_t>(archive_read_header_position(archive_.get()));
  const char* path = archive_entry_pathname(entry_);
  if (!path) path = archive_entry_pathname_utf8(entry_);
  if (!path) fail("a member without a readable name");
  path_ = path;
  const auto type = archive_entry_filetype(entry_);
  folder_ = type == AE_IFDIR;
  if ((type != AE_IFREG && !folder_) || archive_entry_hardlink(entry_))
    fail(path_ + ": expected a file or a folder, found a link or a device");
  if (archive_entry_sparse_count(entry_) > 0)
    fail(path_ + ": expected a file stored whole, found one with holes (of tar --sparse)");
  const la_int64_t size = archive_entry_size(entry_);
  const std::uint64_t data = source_->begin + static_cast<std::uint64_t>(archive_filter_bytes(archive_.get(), 0));
  if (size < 0 || static_cast<std::uint64_t>(size) > source_->end - std::min(data, source_->end))
    fail(path_ + ": expected " + std::to_string(size) + " bytes, found " +
         std::to_string(source_->end - std::min(data, source_->end)) + " to the end: the archive is cut off");
  size_ = static_cast<std::uint64_t>(size);
  members_end_ = data + (size_ + kBlock - 1) / kBlock * kBlock;
  return true;
}

std::string TarReader::read(std::size_t max) {
  std::string out(std::min<std::uint64_t>(size_, max), '\0');
  for (std::size_t done = 0; done < out.size();) {
    const la_ssize_t got = archive_read_data(archive_.get(), &out[done], out.size() - done);
    if (got < 0) check(static_cast<int>(got));
    if (got == 0) fail(path_ + ": expected " + std::to_string(size_) + " bytes, found " + std::to_string(done));
    done += static_cast<std::size_t>(got);
  }
  return out;
}

}  // namespace omni
