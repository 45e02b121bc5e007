#include "engine/zip_reader.h"

#include <zip.h>

#include <optional>
#include <stdexcept>

namespace omni {
namespace {

struct CloseFile {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

}  // namespace

void StoredZip::Close::operator()(zip* archive) const { zip_discard(archive); }

void StoredZip::fail(std::string_view member, const std::string& problem) const {
  throw std::runtime_error(name_ + ": member '" + std::string(member) + "': " + problem);
}

StoredZip::StoredZip(std::span<const std::byte> bytes, const std::string& name) : name_(name), unread_(bytes.size()) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
  if (source != nullptr) archive_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
  const std::string problem = archive_ ? "" : zip_error_strerror(&error);
  if (!archive_ && source != nullptr) zip_source_free(source);
  zip_error_fini(&error);
  if (!archive_) throw std::runtime_error(name_ + ": no zip archive, or cut off: " + problem);

  std::optional<std::string> folder;
  const zip_int64_t count = zip_get_num_entries(archive_.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* member = zip_get_name(archive_.get(), static_cast<zip_uint64_t>(i), 0);
    const std::string_view text = member == nullptr ? "" : member;
    constexpr std::string_view kPickle = "/data.pkl";
    if (!text.ends_with(kPickle) || text.find('/') != text.size() - kPickle.size()) continue;
    if (folder) throw std::runtime_error(name_ + ": more than one member data.pkl");
    folder = text.substr(0, text.size() - kPickle.size());
  }
  if (!folder) throw std::runtime_error(name_ + ": no member <folder>/data.pkl among " + std::to_string(count));
  folder_ = *folder;
}

bool StoredZip::contains(std::string_view member) const {
  return zip_name_locate(archive_.get(), path(member).c_str(), 0) >= 0;
}

Buffer StoredZip::read(std::string_view member) {
  const zip_int64_t index = zip_name_locate(archive_.get(), path(member).c_str(), 0);
  if (index < 0) fail(member, "missing");
  zip_stat_t status;
  if (zip_stat_index(archive_.get(), static_cast<zip_uint64_t>(index), 0, &status) != 0)
    fail(member, zip_strerror(archive_.get()));
  constexpr zip_uint64_t kNeeded = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_COMP_SIZE;
  if ((status.valid & kNeeded) != kNeeded || status.comp_method != ZIP_CM_STORE || status.comp_size != status.size)
    fail(member, "expected a member stored without compression");
  if (status.size > unread_) fail(member, "its size reaches outside of the archive, or members overlap");
  unread_ -= status.size;

  const std::unique_ptr<zip_file_t, CloseFile> file(
      zip_fopen_index(archive_.get(), static_cast<zip_uint64_t>(index), 0));
  if (!file) fail(member, zip_strerror(archive_.get()));
  Buffer buffer(status.size);
  std::uint64_t used = 0;
  for (;;) {  // libzip compares the checksum when it is asked for a byte after the last
    std::byte past_the_end;
    const bool full = used == status.size;
    const zip_int64_t done =
        zip_fread(file.get(), full ? &past_the_end : buffer.data() + used, full ? 1 : status.size - used);
    if (done < 0) fail(member, zip_file_strerror(file.get()));
    if (done == 0 && full) return buffer;
    if (done == 0 || full) fail(member, "its size differs from the archive's directory");
    used += static_cast<std::uint64_t>(done);
  }
}

}  // namespace omni
