#include "engine/files.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>

#include "engine/mapped_file.h"
#include "tests/support/temporary_folder.h"

using namespace omni;
namespace fs = std::filesystem;
using Catch::Matchers::Contains;

namespace {

// Lets no file of this process grow beyond `bytes`, so that a write fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_;
  sighandler_t handler_;
};

void save_version(const fs::path& path, const std::string& version) {
  AtomicFolder folder(path);
  write_text_file(folder.staging() / "weights", version);
  write_text_file(folder.staging() / "state", version);
  folder.commit();
}

}  // namespace

TEST_CASE("an atomic file appears at commit and leaves nothing else") {
  const TemporaryFolder folder;
  const fs::path path = folder / "a.txt";
  {
    AtomicFile file(path);
    file.write("half");
    REQUIRE(!fs::exists(path));
  }
  REQUIRE(folder.entries() == 0);
  write_text_file(path, "old");
  {
    AtomicFile file(path);
    file.write(std::string(100000, 'x'));
    REQUIRE(read_text_file(path) == "old");
    file.write("y");
    REQUIRE(file.written() == 100001);
    file.commit();
    REQUIRE_THROWS_AS(file.commit(), std::logic_error);
    REQUIRE_THROWS_AS(file.write("z"), std::logic_error);
  }
  REQUIRE(read_text_file(path) == std::string(100000, 'x') + "y");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("two writers of one name do not disturb each other") {
  const TemporaryFolder folder;
  AtomicFile first(folder / "a"), second(folder / "a");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  REQUIRE(read_text_file(folder / "a") == "first");
}

TEST_CASE("a full disk is an error that keeps the old file") {
  const TemporaryFolder folder;
  write_text_file(folder / "a", "old");
  {
    const FileSizeLimit limit(4096);
    AtomicFile file(folder / "a");
    file.write(std::string(4000, 'x'));
    REQUIRE_THROWS_WITH(file.write(std::string(4000, 'x')),
                        Contains((folder / "a").string()) && Contains(std::strerror(EFBIG)));
    REQUIRE_THROWS_AS(file.commit(), std::logic_error);
    REQUIRE_THROWS_AS(write_text_file(folder / "b", std::string(5000, 'x')), std::runtime_error);
  }
  REQUIRE(read_text_file(folder / "a") == "old");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("the next save removes what a killed process left, and nothing else") {
  const TemporaryFolder folder;
  write_text_file(folder / "a.part-12-0", "left by a dead process");
  write_text_file(folder / "a.part-12", "a user's file");
  write_text_file(folder / "a.part-12-0.bak", "a user's file");
  write_text_file(folder / "b.part-12-0", "belongs to b");
  fs::create_directory(folder / "a.part-13-5");
  write_text_file(folder / "a.part-13-5/x", "left by a dead process");
  AtomicFile live(folder / "a");
  live.write("live");
  write_text_file(folder / "a", "new");
  REQUIRE(!fs::exists(folder / "a.part-12-0"));
  REQUIRE(!fs::exists(folder / "a.part-13-5"));
  REQUIRE(fs::exists(folder / "a.part-12"));
  REQUIRE(fs::exists(folder / "a.part-12-0.bak"));
  REQUIRE(fs::exists(folder / "b.part-12-0"));
  live.commit();
  REQUIRE(read_text_file(folder / "a") == "live");
}

TEST_CASE("paths that cannot be written or read are errors that name them") {
  const TemporaryFolder folder;
  REQUIRE_THROWS_WITH(AtomicFile(folder / "no/such/a"), Contains("no/such/a"));
  REQUIRE_THROWS_WITH(AtomicFile(folder.path()), Contains(folder.path().string()));
  REQUIRE_THROWS_AS(AtomicFile(""), std::runtime_error);
  REQUIRE_THROWS_AS(AtomicFile("/"), std::runtime_error);
  REQUIRE_THROWS_AS(AtomicFolder("."), std::runtime_error);
  REQUIRE_THROWS_WITH(read_text_file(folder / "none"), Contains("none: No such file"));
  REQUIRE_THROWS_WITH(read_text_file(folder.path()), Contains("Is a directory"));
  REQUIRE_THROWS_WITH(MappedFile(folder / "none"), Contains("none: No such file"));
  REQUIRE_THROWS_AS(MappedFile(folder.path()), std::runtime_error);
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  REQUIRE_THROWS_WITH(MappedFile(folder / "pipe"), Contains("not a regular file"));
  write_text_file(folder / "a", "12345");
  REQUIRE(read_text_file(folder / "a", 5) == "12345");
  REQUIRE_THROWS_WITH(read_text_file(folder / "a", 4), Contains("larger than 4 bytes"));
  REQUIRE_THROWS_AS(AtomicFolder(folder / "a"), std::runtime_error);
}

TEST_CASE("a mapped file shows its bytes") {
  const TemporaryFolder folder;
  write_text_file(folder / "empty", "");
  REQUIRE(MappedFile(folder / "empty").bytes().empty());
  REQUIRE(read_text_file(folder / "empty").empty());
  write_text_file(folder / "a", "hello");
  MappedFile file(folder / "a"), other(folder / "empty");
  write_text_file(folder / "a", "bye");  // a replaced file stays readable
  other = std::move(file);
  REQUIRE(std::string(reinterpret_cast<const char*>(other.bytes().data()), other.bytes().size()) == "hello");
}

TEST_CASE("an atomic folder replaces a folder that is not empty") {
  const TemporaryFolder folder;
  save_version(folder / "model", "1");
  REQUIRE(read_text_file(folder / "model/weights") == "1");
  save_version(folder / "model/", "2");
  REQUIRE(read_text_file(folder / "model/state") == "2");
  {
    AtomicFolder abandoned(folder / "model");
    write_text_file(abandoned.staging() / "weights", "3");
  }
  REQUIRE(read_text_file(folder / "model/weights") == "2");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("a replacement that was cut off between two renames is undone") {
  const TemporaryFolder folder;
  save_version(folder / "model", "1");
  fs::rename(folder / "model", folder / "model.part-replaced");
  recover_folder(folder / "model");
  REQUIRE(read_text_file(folder / "model/weights") == "1");
  recover_folder(folder / "model");
  recover_folder(folder / "other");
  REQUIRE(folder.entries() == 1);
}

TEST_CASE("a process killed at any instant leaves a complete folder") {
  const TemporaryFolder folder;
  const fs::path path = folder / "model";
  save_version(path, "0");
  for (int round = 0; round < 25; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (int version = 0;; ++version) save_version(path, std::to_string(version));
    }
    ::usleep(static_cast<useconds_t>(500 + 777 * round));
    ::kill(child, SIGKILL);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    REQUIRE(!read_text_file(path / "weights").empty());
    REQUIRE(read_text_file(path / "weights") == read_text_file(path / "state"));
  }
  save_version(path, "last");
  REQUIRE(folder.entries() == 1);
}
