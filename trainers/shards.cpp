#include "trainers/shards.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <stdexcept>
#include <thread>

#include "trainers/samples.h"
#include "trainers/shard_index.h"

namespace omni {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kLargestMember = std::uint64_t{1} << 30;  // of those that are held in memory
constexpr std::size_t kOpeners = 8;

}  // namespace

struct ShardSet::Shard {
  fs::path path;
  FileDescriptor file;
  ShardIndex index;

  explicit Shard(const fs::path& name) : path(name), file(open_jumping(name)), index(name, file) {}

  // The system reads ahead of a file that is read in order, which here are mostly recordings that nobody wants.
  static FileDescriptor open_jumping(const fs::path& name) {
    FileDescriptor opened = open_for_reading(name);
    ::posix_fadvise(opened.get(), 0, 0, POSIX_FADV_RANDOM);  // advice: failure changes nothing
    return opened;
  }

  TarReader reader(std::int64_t sample) const {
    const std::uint64_t begin = index.begin(sample), end = index.end(sample);
    if (begin > end || end > index.bytes())
      throw std::runtime_error(path.string() + ".index: damaged: expected bytes up to " +
                               std::to_string(index.bytes()) + ", found " + std::to_string(begin) + " to " +
                               std::to_string(end));
    return TarReader(read_at(file, path), begin, end, path.string());
  }
};

struct ShardSet::Place {
  const Shard& shard;
  std::int64_t sample;  // within the shard
};

std::vector<fs::path> list_shards(const std::vector<fs::path>& files_or_folders) {
  std::vector<fs::path> out;
  for (const fs::path& path : files_or_folders) {
    if (!fs::is_directory(path)) {
      if (!fs::exists(path)) throw_file_error("open", path, ENOENT);
      out.push_back(path);
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(out.size());
    for (const fs::directory_entry& entry : fs::directory_iterator(path))
      if (entry.path().extension() == ".tar" && !entry.is_directory()) out.push_back(entry.path());
    if (static_cast<std::size_t>(first) == out.size())
      throw std::runtime_error(path.string() + ": expected shards (*.tar) in this folder, found none");
    std::sort(out.begin() + first, out.end());
  }
  return out;
}

ShardSet::ShardSet(const std::vector<fs::path>& files_or_folders, const OmniRowLimits& limits) : limits_(limits) {
  open(list_shards(files_or_folders));
  for (const std::unique_ptr<Shard>& shard : shards_) {
    const ShardIndex& index = shard->index;
    ends_.push_back(size() + index.size());
    bytes_ += index.bytes();
    fingerprint_ = fingerprint_ * 1'000'003 + index.hash();
  }
  if (shards_.empty()) throw std::runtime_error("expected shards of training data, found none named");
  if (size() == 0) throw std::runtime_error(shards_.front()->path.string() + ": expected samples, found none");
}

ShardSet::~ShardSet() = default;

// Several at a time: a scan waits for the disk, again and again.
void ShardSet::open(const std::vector<fs::path>& paths) {
  shards_.resize(paths.size());
  std::vector<std::exception_ptr> errors(paths.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < paths.size();) try {
        shards_[i] = std::make_unique<Shard>(paths[i]);
      } catch (...) {
        errors[i] = std::current_exception();
      }
  };
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 1; i < std::min(paths.size(), kOpeners); ++i) workers.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);  // the first in the order of the shards
}

ShardSet::Place ShardSet::find(std::int64_t sample) const {
  if (sample < 0 || sample >= size())
    throw std::out_of_range("sample " + std::to_string(sample) + " of " + std::to_string(size()));
  const auto shard = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), sample) - ends_.begin());
  return {*shards_[shard], sample - (shard == 0 ? 0 : ends_[shard - 1])};
}

std::string ShardSet::key(std::int64_t sample) const {
  const Place place = find(sample);
  TarReader tar = place.shard.reader(place.sample);
  while (tar.next())
    if (const MemberName name = split_member_name(tar.path()); !tar.is_folder() && !name.key.empty())
      return std::string(name.key);
  throw std::runtime_error(place.shard.path.string() + ": expected a sample, found none: the shard has been changed");
}

std::string ShardSet::place(std::int64_t sample) const { return find(sample).shard.path.string() + ": " + key(sample); }

std::vector<ShardMember> ShardSet::members(std::int64_t sample, std::size_t recording_bytes) const {
  const Place place = find(sample);
  TarReader tar = place.shard.reader(place.sample);
  std::vector<ShardMember> out;
  while (tar.next()) {
    if (tar.is_folder()) continue;
    std::string name(split_member_name(tar.path()).field);
    const std::uint64_t wanted =
        std::min<std::uint64_t>(tar.size(), is_read_by_omni_row(name) ? SIZE_MAX : recording_bytes);
    if (wanted > kLargestMember)
      throw std::runtime_error(place.shard.path.string() + ": " + tar.path() + ": expected at most 1 GiB, found " +
                               std::to_string(tar.size()) + " bytes");
    std::string bytes = tar.read(wanted);
    out.push_back({std::move(name), std::move(bytes)});
  }
  return out;
}

OmniRow ShardSet::read(std::int64_t sample) const {
  try {
    return parse_omni_row(members(sample, 0), limits_);
  } catch (const BadSample& error) {
    throw BadSample(error.kind(), place(sample) + ": " + error.what());
  }
}

}  // namespace omni
