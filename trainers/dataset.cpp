#include "trainers/dataset.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "engine/files.h"
#include "trainers/checksum.h"
#include "trainers/samples.h"

namespace omni {
namespace {

constexpr std::uint64_t kChunk = std::uint64_t{8} << 20;  // bytes that one thread checks at a time
constexpr std::size_t kExamples = 3;

}  // namespace

struct Dataset::File {
  std::filesystem::path path;
  FileDescriptor descriptor;
  std::uint64_t bytes;

  explicit File(const std::filesystem::path& name)
      : path(name), descriptor(open_for_reading(name)), bytes(std::filesystem::file_size(name)) {}

  // The bytes [begin, end).
  std::string read(std::uint64_t begin, std::uint64_t end) const {
    std::string out(end - begin, '\0');
    for (std::size_t done = 0; done < out.size();) {
      const ssize_t got = ::pread(descriptor.get(), &out[done], out.size() - done, static_cast<off_t>(begin + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_file_error("read", path);
      if (got == 0) throw std::runtime_error(path.string() + ": the file has shrunk while it was in use");
      done += static_cast<std::size_t>(got);
    }
    return out;
  }
};

// What one thread finds in the lines that begin in [begin, begin + kChunk).
struct Dataset::Chunk {
  struct Bad {
    const char* kind;
    std::int64_t line;  // counted from the chunk's first
    std::string reason;
  };
  std::vector<std::pair<std::uint64_t, std::uint32_t>> rows;  // begin and length
  std::vector<Bad> bad;                                       // with a reason only for the first few of a kind
  std::int64_t lines = 0;
  std::uint64_t hash = 0;

  void check(Stage stage, std::string_view line, std::uint64_t begin) try {
    ++lines;
    if (line.size() > kLongestLine) throw BadSample("line longer than 64 MiB", "longer than 64 MiB");
    if (stage == Stage::pretrain)
      parse_pretrain(line);
    else
      parse_conversation(line);
    rows.emplace_back(begin, static_cast<std::uint32_t>(line.size()));
    hash = hash * 31 + checksum(line);
  } catch (const BadSample& error) {
    const auto same = std::count_if(
        bad.begin(), bad.end(), [&](const Bad& other) { return other.kind == error.kind() && !other.reason.empty(); });
    bad.push_back({error.kind(), lines - 1, static_cast<std::size_t>(same) < kExamples ? error.what() : ""});
  }

  void scan(Stage stage, const File& file, std::uint64_t begin) {
    const std::uint64_t end = std::min(begin + kChunk, file.bytes);
    // One byte earlier: whether the chunk's first byte begins a line.
    const std::uint64_t origin = begin == 0 ? 0 : begin - 1;
    std::string text = file.read(origin, end);
    std::size_t at = begin == 0 ? 0 : text.find('\n') + 1;
    if (begin != 0 && at == 0) return;  // the inside of a long line
    while (origin + at < end) {
      std::size_t newline = text.find('\n', at);
      // The chunk's last line may reach far beyond it; one byte more than allowed tells that it is too long.
      while (newline == std::string::npos && origin + text.size() < file.bytes && text.size() - at <= kLongestLine) {
        const std::uint64_t next = origin + text.size();
        text += file.read(next, std::min(next + kChunk, file.bytes));
        newline = text.find('\n', at);
      }
      const std::size_t stop = newline == std::string::npos ? text.size() : newline;
      check(stage, std::string_view(text).substr(at, stop - at), origin + at);
      if (newline == std::string::npos) return;
      at = newline + 1;
    }
  }
};

Dataset::Dataset(Stage stage, const std::vector<std::filesystem::path>& files, int threads) {
  for (const std::filesystem::path& path : files) {
    files_.push_back(std::make_unique<File>(path));
    bytes_ += files_.back()->bytes;
    index_file(stage, static_cast<std::uint32_t>(files_.size() - 1), threads);
  }
  if (!rows_.empty()) return;
  std::string message = files_.front()->path.string() + ": no sample of the stage " + name_of(stage) + " in it";
  for (const SkippedLines& kind : skipped_)
    message += "; " + std::to_string(kind.count) + " x " + kind.kind + " (" + kind.examples.front() + ")";
  throw std::runtime_error(message);
}

Dataset::~Dataset() = default;

void Dataset::index_file(Stage stage, std::uint32_t number, int threads) {
  const File& file = *files_[number];
  std::vector<Chunk> chunks((file.bytes + kChunk - 1) / kChunk);
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  const auto work = [&] {
    try {
      for (std::size_t i; (i = next++) < chunks.size();) chunks[i].scan(stage, file, i * kChunk);
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      next = chunks.size();
    }
  };
  {
    std::vector<std::jthread> workers;
    const std::size_t count = std::min(chunks.size(), static_cast<std::size_t>(std::max(1, threads)));
    for (std::size_t i = 1; i < count; ++i) workers.emplace_back(work);
    work();
  }
  if (error) std::rethrow_exception(error);
  std::int64_t line = 1;
  for (const Chunk& chunk : chunks) {
    join(chunk, number, line);
    line += chunk.lines;
  }
}

void Dataset::join(const Chunk& chunk, std::uint32_t file, std::int64_t first_line) {
  for (const auto& [begin, length] : chunk.rows) rows_.push_back({begin, length, file});
  if (chunk.lines > 0) fingerprint_ = fingerprint_ * 1'000'003 + chunk.hash;
  for (const Chunk::Bad& bad : chunk.bad) {
    auto kind =
        std::find_if(skipped_.begin(), skipped_.end(), [&](const auto& known) { return known.kind == bad.kind; });
    if (kind == skipped_.end()) kind = skipped_.insert(kind, SkippedLines{bad.kind, 0, {}});
    ++kind->count;
    if (kind->examples.size() < kExamples && !bad.reason.empty())
      kind->examples.push_back(files_[file]->path.string() + ":" + std::to_string(first_line + bad.line) + ": " +
                               bad.reason);
  }
}

std::string Dataset::line(std::int64_t number) const {
  const Row& row = rows_.at(static_cast<std::size_t>(number));
  return files_[row.file]->read(row.begin, row.begin + row.length);
}

std::string Dataset::place(std::int64_t number) const {
  const Row& row = rows_.at(static_cast<std::size_t>(number));
  const File& file = *files_[row.file];
  std::int64_t line = 1;
  for (std::uint64_t at = 0; at < row.begin; at += kChunk) {
    const std::string text = file.read(at, std::min(at + kChunk, row.begin));
    line += std::count(text.begin(), text.end(), '\n');
  }
  return file.path.string() + ":" + std::to_string(line);
}

void report_skipped(std::ostream& out, const Dataset& dataset) {
  for (const SkippedLines& kind : dataset.skipped()) {
    out << "skipped " << kind.count << (kind.count == 1 ? " line: " : " lines: ") << kind.kind << "\n";
    for (const std::string& example : kind.examples) out << "  " << example << "\n";
  }
}

}  // namespace omni
