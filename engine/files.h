#pragma once
// Files and folders that appear whole or not at all, also when the process is killed or the disk is full.
//
// The content is written beside its destination, under the name "<name>.part-<process>-<number>", and takes the final
// name by one rename once it is on the disk. The writer holds a lock on its temporary, so the next save of the same
// name can tell the leftovers of a killed process, which it removes, from the work of a live one. All errors are
// std::runtime_error and name the file and the system's reason.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace omni {

// Throws "cannot <action> <path>: <the system's text for this error number>".
[[noreturn]] void throw_file_error(std::string_view action, const std::filesystem::path& path, int error = errno);

// Owns a POSIX file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() { close(); }

  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  int close();  // 0, or -1 with errno set: the last chance to learn of a failed write

 private:
  int number_ = -1;
};

// Opens a regular file for reading; a folder, a pipe and the like are errors. O_CLOEXEC is set.
FileDescriptor open_for_reading(const std::filesystem::path& path);

// Writes all of it, however little the system takes at once. `path` is the file's name for errors.
void write_all(const FileDescriptor& file, const std::filesystem::path& path, std::string_view bytes);

// A file under construction. Until commit() returns, `path` holds what it held before; afterwards the new content, also
// after a power failure. Destroyed without commit, it leaves nothing behind. A symbolic link at `path` is replaced.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile() { abandon(); }
  AtomicFile(AtomicFile&&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  std::uint64_t written() const { return written_; }  // bytes so far
  const std::filesystem::path& path() const { return path_; }
  void commit();

 private:
  void abandon() noexcept;

  std::filesystem::path path_, temporary_;
  FileDescriptor file_;
  std::uint64_t written_ = 0;
};

// A folder under construction, for checkpoints of several files. Fill staging(), then commit(): all its files are
// flushed to the disk and the folder takes the place of an existing one by a single atomic exchange, so at any instant
// either the complete old or the complete new folder is found at `path`.
//
// A file system that cannot exchange (renameat2 with RENAME_EXCHANGE) gets two renames: the old folder becomes
// "<name>.part-replaced", then the new one takes the name. A process killed exactly between them leaves no folder at
// `path` but two complete ones beside it; recover_folder(), or the next AtomicFolder of that name, puts the old one
// back.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path path);
  ~AtomicFolder();
  AtomicFolder(AtomicFolder&&) = delete;

  const std::filesystem::path& staging() const { return staging_; }
  void commit();

 private:
  std::filesystem::path path_, staging_;
  FileDescriptor lock_;
};

// Undoes a replacement that was cut off between its two renames (see AtomicFolder). Cheap; call it before reading.
void recover_folder(const std::filesystem::path& path);

// The whole content of a file; an error if it is larger than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{64} << 20);
// Replaces the file's content atomically, as AtomicFile does.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace omni
