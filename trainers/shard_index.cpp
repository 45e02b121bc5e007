#include "trainers/shard_index.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <set>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#include "trainers/checksum.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMagic = 0x31786469'64726873;  // "shrdidx1"; a change of the format counts it up
constexpr std::size_t kMostMembers = 4096;             // of one sample

// A file without a name, written once from front to end, but for its beginning, which comes last.
class Scratch {
 public:
  Scratch() : name_((fs::temp_directory_path() / "omni-index-XXXXXX").string()) {
    file_ = FileDescriptor(::mkostemp(name_.data(), O_CLOEXEC));
    if (!file_) throw_file_error("create", name_);
  }
  ~Scratch() { ::unlink(name_.c_str()); }
  Scratch(Scratch&&) = delete;

  void seek(std::uint64_t offset) { written_ = offset; }
  void append(std::uint64_t word) {
    block_.push_back(word);
    if (block_.size() == 8192) flush();
  }
  void flush() {
    write(block_.data(), block_.size() * sizeof(std::uint64_t), written_);
    written_ += block_.size() * sizeof(std::uint64_t);
    block_.clear();
  }
  void write(const void* data, std::size_t bytes, std::uint64_t offset) {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t got =
          ::pwrite(file_.get(), static_cast<const char*>(data) + done, bytes - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) throw_file_error("write", name_, got < 0 ? errno : ENOSPC);
      done += static_cast<std::size_t>(got);
    }
  }
  MappedFile map() const { return MappedFile(name_); }

 private:
  std::string name_;
  FileDescriptor file_;
  std::vector<std::uint64_t> block_;
  std::uint64_t written_ = 0;
};

// Two samples of equal hash: names the key if it is really one, otherwise all is well.
void refuse_repeated_key(const ReadAt& source, std::uint64_t bytes, const std::string& name, std::uint64_t hash) {
  TarReader tar(source, 0, bytes, name);
  std::unordered_map<std::string, std::uint64_t> seen;
  std::string last;
  while (tar.next()) {
    const MemberName member = split_member_name(tar.path());
    if (tar.is_folder() || member.key.empty() || member.key == last) continue;
    last = member.key;
    if (checksum(last) != hash) continue;
    const auto [first, is_new] = seen.emplace(last, tar.offset());
    if (!is_new)
      throw std::runtime_error(name + ": " + last +
                               ": expected the members of a key side by side, found them at byte " +
                               std::to_string(first->second) + " and again at byte " + std::to_string(tar.offset()));
  }
}

// After the last member a tar archive has zeros: at least two blocks of 512, filled up to some larger unit.
void check_end(const ReadAt& source, std::uint64_t members_end, std::uint64_t bytes, const std::string& name) {
  if (members_end + 512 > bytes)
    throw std::runtime_error(name + ": expected the archive's end mark at byte " + std::to_string(members_end) +
                             ", found the file's end: it is cut off");
  std::vector<char> rest(std::min<std::uint64_t>(bytes - members_end, 64 << 10));
  std::size_t have = 0;
  while (have < rest.size()) {
    const std::size_t got = source(members_end + have, &rest[have], rest.size() - have);
    if (got == 0) break;
    have += got;
  }
  const auto stray = std::find_if(rest.begin(), rest.end(), [](char c) { return c != 0; });
  if (stray != rest.end())
    throw std::runtime_error(name + ": expected nothing behind the archive's end mark, found more at byte " +
                             std::to_string(members_end + static_cast<std::uint64_t>(stray - rest.begin())) +
                             " (archives cannot be joined by cat)");
}

}  // namespace

MemberName split_member_name(std::string_view path) {
  const std::size_t slash = path.rfind('/'), name = slash == std::string_view::npos ? 0 : slash + 1,
                    dot = path.find('.', name);
  if (dot == std::string_view::npos || dot == name) return {{}, path};
  return {path.substr(0, dot), path.substr(dot + 1)};
}

std::uint64_t scan_shard(const ReadAt& source, std::uint64_t bytes, const std::string& name,
                         const std::function<void(std::uint64_t begin)>& begin) {
  TarReader tar(source, 0, bytes, name);
  std::vector<std::uint64_t> keys;  // hashes; 8 bytes a sample while the scan lasts
  std::string key;
  std::set<std::string, std::less<>> fields;
  std::uint64_t hash = 0;
  while (tar.next()) {
    const MemberName member = split_member_name(tar.path());
    if (tar.is_folder() || member.key.empty()) continue;
    if (keys.empty() || member.key != key) {
      // What lies before the first sample goes to it, so that nothing goes unread.
      begin(keys.empty() ? 0 : tar.offset());
      key = member.key;
      keys.push_back(checksum(key));
      fields.clear();
    }
    if (!fields.emplace(member.field).second)
      throw std::runtime_error(name + ": " + key + ": expected every member once, found " + std::string(member.field) +
                               " again at byte " + std::to_string(tar.offset()));
    if (fields.size() > kMostMembers)
      throw std::runtime_error(name + ": " + key + ": expected at most " + std::to_string(kMostMembers) +
                               " members, found more");
    hash = (hash * 31 + checksum(tar.path())) * 31 + tar.size();
  }
  check_end(source, tar.members_end(), bytes, name);
  std::sort(keys.begin(), keys.end());
  for (auto same = keys.begin(); (same = std::adjacent_find(same, keys.end())) != keys.end(); ++same)
    refuse_repeated_key(source, bytes, name, *same);
  return hash;
}

struct ShardIndex::Header {
  std::uint64_t magic = kMagic;
  std::uint64_t bytes = 0, changed = 0;  // of the shard; nanoseconds since 1970
  std::uint64_t count = 0;               // of samples
  std::uint64_t hash = 0;
  std::uint64_t sum = 0;  // checksum of the words behind the header
  std::uint64_t unused = 0;
  std::uint64_t own = 0;  // checksum of the words above

  std::uint64_t checksum_of_this() const {
    return checksum(std::as_bytes(std::span(this, 1)).first(offsetof(Header, own)));
  }
};

bool ShardIndex::use(MappedFile file, const Header& expected) {
  Header header;
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  const std::span<const std::byte> words = bytes.subspan(sizeof header);
  if (header.own != header.checksum_of_this() || header.magic != kMagic || header.bytes != expected.bytes ||
      header.changed != expected.changed || words.empty() || words.size() % sizeof(std::uint64_t) != 0 ||
      words.size() / sizeof(std::uint64_t) - 1 != header.count || header.sum != checksum(words))
    return false;
  begins_ = {reinterpret_cast<const std::uint64_t*>(words.data()), words.size() / sizeof(std::uint64_t)};
  hash_ = header.hash;
  file_ = std::move(file);
  return true;
}

ShardIndex::ShardIndex(const fs::path& shard, const FileDescriptor& file) {
  struct stat status;
  if (::fstat(file.get(), &status) != 0) throw_file_error("examine", shard);
  Header header;
  header.bytes = static_cast<std::uint64_t>(status.st_size);
  header.changed = static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000'000 +
                   static_cast<std::uint64_t>(status.st_mtim.tv_nsec);
  const fs::path path = fs::path(shard) += ".index";
  try {
    if (fs::is_regular_file(path) && use(MappedFile(path), header)) return;
  } catch (const std::runtime_error&) {  // unreadable: made again
  }
  Scratch scratch;
  scratch.seek(sizeof header);
  header.hash = scan_shard(read_at(file, shard), header.bytes, shard.string(), [&](std::uint64_t begin) {
    scratch.append(begin);
    ++header.count;
  });
  scratch.append(header.bytes);
  scratch.flush();
  header.sum = checksum(scratch.map().bytes().subspan(sizeof header));
  header.own = header.checksum_of_this();
  scratch.write(&header, sizeof header, 0);
  if (!use(scratch.map(), header)) throw std::logic_error(shard.string() + ": an index that is damaged at birth");
  try {
    AtomicFile copy(path);
    copy.write(file_->bytes().data(), file_->bytes().size());
    copy.commit();
  } catch (const std::runtime_error&) {  // a folder that is not ours: the next opening scans again
  }
}

}  // namespace omni
