#include "engine/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "engine/files.h"

namespace omni {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  struct stat status;
  if (::fstat(file.get(), &status) != 0) throw_file_error("examine", path);
  if (status.st_size == 0) return;  // mmap refuses a length of zero
  const std::size_t size = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) throw_file_error("map", path);
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace omni
