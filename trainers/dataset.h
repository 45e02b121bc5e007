#pragma once
// The lines of JSONL files, found by their numbers.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainers/recipe.h"

namespace omni {

// Lines that are no samples, by what is wrong with them.
struct SkippedLines {
  std::string kind;
  std::int64_t count = 0;
  std::vector<std::string> examples;  // the first three: "file:line: reason"
};

// An index over JSONL files of any size: one pass reads all lines and keeps the place of every one that is a sample of
// the stage; the others are counted and named. Afterwards lines are read from the disk one by one.
class Dataset {
 public:
  // `threads` check lines at the same time; the result does not depend on their number. Throws std::runtime_error
  // naming the file if one cannot be read, and if no sample is left.
  Dataset(Stage stage, const std::vector<std::filesystem::path>& files, int threads);
  ~Dataset();
  Dataset(Dataset&&) = delete;

  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  // May be called from several threads. Throws std::runtime_error if the file has shrunk since.
  std::string line(std::int64_t row) const;
  std::string place(std::int64_t row) const;  // "file:line"; reads the file up to there
  const std::vector<SkippedLines>& skipped() const { return skipped_; }
  std::uint64_t bytes() const { return bytes_; }              // of all files
  std::uint64_t fingerprint() const { return fingerprint_; }  // of all samples in their order

  static constexpr std::size_t kLongestLine = std::size_t{64} << 20;

 private:
  struct Row {
    std::uint64_t begin;
    std::uint32_t length, file;
  };
  struct File;
  struct Chunk;

  void index_file(Stage stage, std::uint32_t file, int threads);
  void join(const Chunk& chunk, std::uint32_t file, std::int64_t first_line);

  std::vector<std::unique_ptr<File>> files_;
  std::vector<Row> rows_;
  std::vector<SkippedLines> skipped_;
  std::uint64_t bytes_ = 0, fingerprint_ = 0;
};

// Prints the skipped kinds with their counts and examples.
void report_skipped(std::ostream& out, const Dataset& dataset);

}  // namespace omni
