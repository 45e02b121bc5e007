#include "engine/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReplaced = ".part-replaced";  // suffix of an old folder while a new one takes its name

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

// "out/x/" names the same folder as "out/x"; the temporary must stand beside it, not inside.
fs::path without_trailing_slash(fs::path path) {
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..")
    throw std::runtime_error("cannot write '" + path.string() + "': the path has no file name");
  return path;
}

fs::path with_suffix(const fs::path& path, const std::string& suffix) { return fs::path(path) += suffix; }

fs::path next_temporary(const fs::path& path) {
  static std::atomic<std::uint64_t> number{0};
  return with_suffix(path, ".part-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
}

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Whether `name` is a temporary of `destination`: "<destination>.part-<number>-<number>".
bool is_temporary_of(std::string_view name, const std::string& destination) {
  const std::string prefix = destination + ".part-";
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  const std::size_t dash = name.find('-');
  return dash != std::string_view::npos && is_number(name.substr(0, dash)) && is_number(name.substr(dash + 1));
}

// Removes the temporaries of `path` that no live process holds. Failure is no error: they only take space.
void remove_leftovers(const fs::path& path) noexcept try {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(path))) {
    if (!is_temporary_of(entry.path().filename().string(), path.filename().string())) continue;
    const FileDescriptor file(::open(entry.path().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (file && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) fs::remove_all(entry.path(), ignored);
  }
} catch (const std::exception&) {
}

// Marks a temporary as in use. False if another process's remove_leftovers took it in the instant since its creation.
// File systems without locks are fine: remove_leftovers cannot lock there either, and leaves everything alone.
bool hold(int file, const fs::path& temporary) {
  ::flock(file, LOCK_EX);
  struct stat ours, named;
  return ::fstat(file, &ours) == 0 && ::lstat(temporary.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
         ours.st_dev == named.st_dev;
}

// Flushes a file or a folder to the disk. File systems that cannot flush a folder say EINVAL; nothing is lost by that.
void flush(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file || (::fsync(file.get()) != 0 && errno != EINVAL)) throw_file_error("flush", path);
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_file_error("rename " + from.string() + " to", to);
}

}  // namespace

void throw_file_error(std::string_view action, const fs::path& path, int error) {
  throw std::runtime_error("cannot " + std::string(action) + " " + path.string() + ": " + std::strerror(error));
}

int FileDescriptor::close() {
  const int number = std::exchange(number_, -1);
  return number < 0 ? 0 : ::close(number);
}

FileDescriptor open_for_reading(const fs::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));  // a pipe must not block the open
  if (!file) throw_file_error("open", path);
  struct stat status;
  if (::fstat(file.get(), &status) != 0) throw_file_error("examine", path);
  if (S_ISDIR(status.st_mode)) throw_file_error("read", path, EISDIR);
  if (!S_ISREG(status.st_mode)) throw std::runtime_error("cannot read " + path.string() + ": not a regular file");
  return file;
}

AtomicFile::AtomicFile(fs::path path) : path_(without_trailing_slash(std::move(path))) {
  if (fs::is_directory(path_)) throw_file_error("write", path_, EISDIR);
  remove_leftovers(path_);
  for (;;) {
    temporary_ = next_temporary(path_);
    file_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file_ && errno == EEXIST) continue;  // another host's process with our number
    if (!file_) throw_file_error("create", path_);
    if (hold(file_.get(), temporary_)) return;
  }
}

void AtomicFile::abandon() noexcept {
  if (!file_) return;
  file_.close();
  ::unlink(temporary_.c_str());
}

void write_all(const FileDescriptor& file, const fs::path& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(file.get(), bytes.data(), std::min(bytes.size(), std::size_t{1} << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw_file_error("write", path, done < 0 ? errno : ENOSPC);
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  if (!file_) throw std::logic_error("write to " + path_.string() + " after its end");
  try {
    write_all(file_, path_, {static_cast<const char*>(data), bytes});
  } catch (...) {
    abandon();
    throw;
  }
  written_ += bytes;
}

void AtomicFile::commit() {
  if (!file_) throw std::logic_error("commit of " + path_.string() + " after its end");
  if (::fsync(file_.get()) != 0) throw_file_error("flush", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_file_error("replace", path_);
  if (file_.close() != 0) throw_file_error("close", path_);
  flush(folder_of(path_));
}

AtomicFolder::AtomicFolder(fs::path path) : path_(without_trailing_slash(std::move(path))) {
  if (fs::exists(path_) && !fs::is_directory(path_)) throw_file_error("write", path_, ENOTDIR);
  recover_folder(path_);
  remove_leftovers(path_);
  for (;;) {
    staging_ = next_temporary(path_);
    if (::mkdir(staging_.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      throw_file_error("create", path_);
    }
    lock_ = FileDescriptor(::open(staging_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock_ && errno != ENOENT) throw_file_error("open", staging_);
    if (lock_ && hold(lock_.get(), staging_)) return;
  }
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (lock_) fs::remove_all(staging_, ignored);
}

void AtomicFolder::commit() {
  if (!lock_) throw std::logic_error("commit of " + path_.string() + " after its end");
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(staging_))
    if (!entry.is_symlink()) flush(entry.path());
  flush(staging_);

  const fs::path old = with_suffix(path_, kReplaced);
  bool replaced = false;
  if (!fs::exists(path_)) {
    rename_or_throw(staging_, path_);
  } else if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0) {
    replaced = true;  // the old folder now bears the temporary name
  } else if (errno == EINVAL || errno == ENOSYS || errno == EXDEV || errno == EOPNOTSUPP) {
    fs::remove_all(old);
    rename_or_throw(path_, old);
    if (::rename(staging_.c_str(), path_.c_str()) != 0) {
      const int error = errno;
      rename_or_throw(old, path_);
      throw_file_error("replace", path_, error);
    }
  } else {
    throw_file_error("replace", path_);
  }
  flush(folder_of(path_));
  lock_.close();
  std::error_code ignored;
  fs::remove_all(replaced ? staging_ : old, ignored);
}

void recover_folder(const fs::path& path) {
  const fs::path folder = without_trailing_slash(path), old = with_suffix(folder, kReplaced);
  if (!fs::exists(folder) && fs::is_directory(old)) rename_or_throw(old, folder);
}

std::string read_text_file(const fs::path& path, std::size_t max_bytes) {
  const FileDescriptor file = open_for_reading(path);
  std::string text;
  for (std::size_t used = 0;;) {
    text.resize(used + (std::size_t{64} << 10) + used / 2);
    const ssize_t done = ::read(file.get(), text.data() + used, text.size() - used);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw_file_error("read", path);
    used += static_cast<std::size_t>(done);
    if (used > max_bytes)
      throw std::runtime_error("cannot read " + path.string() + ": larger than " + std::to_string(max_bytes) +
                               " bytes");
    if (done == 0) {
      text.resize(used);
      return text;
    }
  }
}

void write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace omni
