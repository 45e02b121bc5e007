// Tar shards: the index, random access, and everything that can be wrong with the archive.

#include "trainers/shards.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <thread>

#include "engine/files.h"
#include "tests/support/omni_shard.h"
#include "tests/support/temporary_folder.h"
#include "trainers/samples.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;

// Ten small samples in three shards, in a folder that also holds other things.
struct SmallShards {
  TemporaryFolder folder;

  SmallShards() {
    for (int shard = 0; shard < 3; ++shard) {
      std::vector<ShardFiles> samples;
      for (int i = 0; i < 2 + shard; ++i)
        samples.push_back(small_sample("k" + std::to_string(10 * shard + i), 10 * shard + i));
      write_text_file(folder / ("part-" + std::to_string(shard) + ".tar"), shard_of(samples));
    }
    write_text_file(folder / "readme.txt", "no shard");
    fs::create_directory(folder / "folder.tar");
  }
};

std::string error_of(const fs::path& path) {
  try {
    const ShardSet set({path});
    return "no error";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

TEST_CASE("a shard set finds every sample of its shards, in any order and from several threads") {
  const SmallShards small;
  const ShardSet set({small.folder.path()});
  REQUIRE(set.size() == 9);
  const std::vector<std::string> keys = {"k0", "k1", "k10", "k11", "k12", "k20", "k21", "k22", "k23"};
  const auto check = [&](std::int64_t i, std::atomic<int>& wrong) {
    const std::string& key = keys[static_cast<std::size_t>(i)];
    const std::int64_t seed = std::stoll(key.substr(1));
    const OmniRow row = set.read(i);
    if (set.key(i) != key || row.answer_codes.size() != 1 || row.answer_codes[0] != some_codes(2, seed)) ++wrong;
  };
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (std::int64_t i = 0; i < 45; ++i) check((i * 7 + t) % 9, wrong);
      });
  }
  CHECK(wrong == 0);
  CHECK(set.place(3) == (small.folder / "part-1.tar").string() + ": k11");
  CHECK_THROWS_AS(set.read(9), std::out_of_range);
  CHECK_THROWS_AS(set.key(-1), std::out_of_range);
  std::uint64_t bytes = 0;
  for (int i = 0; i < 3; ++i) bytes += fs::file_size(small.folder / ("part-" + std::to_string(i) + ".tar"));
  CHECK(set.bytes() == bytes);
}

TEST_CASE("a row holds all that its sample has") {
  TemporaryFolder folder;
  write_text_file(folder / "a.tar", shard_of({full_sample("a/b.c/x-1", 2), small_sample("y", 0)}));
  const ShardSet set({folder / "a.tar"});
  REQUIRE(set.size() == 2);
  CHECK(set.key(0) == "a/b.c/x-1");
  const OmniRow row = set.read(0);
  REQUIRE(row.messages.size() == 4);
  CHECK(row.messages[3] == nlohmann::ordered_json{{"role", "assistant"}, {"content", "vier é"}});
  REQUIRE(row.answer_codes.size() == 2);
  CHECK(row.answer_codes[0] == some_codes(7, 2));
  CHECK(row.answer_codes[1] == some_codes(3, 3));
  CHECK(row.reference_codes == some_codes(4, 4));
  CHECK(row.speaker == some_floats(192, 2));
  REQUIRE(row.questions.size() == 2);
  CHECK(row.questions[0].rows == 0);
  CHECK(row.questions[0].values.empty());
  CHECK(row.questions[1].rows == 2);
  CHECK(row.questions[1].values == some_floats(2 * 512, 2));
  CHECK(row.image.rows == 64);
  CHECK(row.image.values == some_floats(64 * 768, 2));
  const OmniRow plain = set.read(1);
  CHECK(plain.questions.empty());
  CHECK(plain.speaker.empty());
  CHECK(plain.reference_codes.empty());
  CHECK(plain.image.rows == 0);

  const std::vector<ShardMember> all = set.members(0), heads = set.members(0, 3);
  REQUIRE(all.size() == 9);
  CHECK(all[5].name == "question.1.wav");
  CHECK(all[5].bytes == "RIFF\1\2\3\4WAVEfmt ");
  CHECK(heads[5].bytes == "RIF");
  CHECK(heads[6].bytes == all[6].bytes);
}

TEST_CASE("an index is kept beside the shard, and made again when it does not fit") {
  const SmallShards small;
  const fs::path shard = small.folder / "part-2.tar", index = small.folder / "part-2.tar.index";
  const std::uint64_t fingerprint = ShardSet({shard}).fingerprint();
  REQUIRE(fs::exists(index));
  CHECK_FALSE(fs::exists(small.folder / "part-1.tar.index"));
  const std::string good = read_text_file(index);
  CHECK(good.size() == 64 + 8 * 5);

  SECTION("it is used") {
    // The archive's headers are damaged under the index's eyes: only a new scan would see it.
    const fs::file_time_type changed = fs::last_write_time(shard);
    std::fstream(shard, std::ios::in | std::ios::out | std::ios::binary).seekp(0) << "damaged";
    fs::last_write_time(shard, changed);
    CHECK(ShardSet({shard}).fingerprint() == fingerprint);
    fs::last_write_time(shard, changed + std::chrono::seconds(1));
    CHECK_THAT(error_of(shard), Contains("part-2.tar") && Contains("not a sound tar archive"));
  }
  SECTION("damage of any kind is noticed") {
    std::vector<std::string> broken = {
        "", "x", good.substr(0, 63), good.substr(0, 64), good.substr(0, 96), good + "12345678"};
    for (std::size_t i = 0; i < good.size(); i += 5) {
      broken.push_back(good);
      broken.back()[i] ^= 4;
    }
    for (const std::string& bytes : broken) {
      write_text_file(index, bytes);
      const ShardSet set({shard});
      REQUIRE(set.size() == 4);
      REQUIRE(set.fingerprint() == fingerprint);
      REQUIRE(set.key(3) == "k23");
      REQUIRE(read_text_file(index) == good);
    }
  }
  SECTION("another shard under the same name gets another index") {
    write_text_file(shard, shard_of({small_sample("new", 1)}));
    const ShardSet set({shard});
    CHECK(set.size() == 1);
    CHECK(set.key(0) == "new");
    CHECK(set.fingerprint() != fingerprint);
    CHECK(read_text_file(index) != good);
  }
  SECTION("where none can be written, all works without") {
    fs::remove(index);
    fs::create_directory(index);
    const ShardSet set({shard});
    CHECK(set.fingerprint() == fingerprint);
    CHECK(set.key(3) == "k23");
    CHECK(fs::is_directory(index));
  }
}

TEST_CASE("the fingerprint depends on names and sizes of members and on the order of shards") {
  const SmallShards small;
  const fs::path a = small.folder / "part-0.tar", b = small.folder / "part-1.tar";
  const std::uint64_t whole = ShardSet({a, b}).fingerprint();
  CHECK(ShardSet({a, b}).fingerprint() == whole);
  CHECK(ShardSet({b, a}).fingerprint() != whole);
  CHECK(ShardSet({a}).fingerprint() != whole);
  ShardFiles sample = small_sample("k", 0);
  write_text_file(a, tar_file(sample));
  const std::uint64_t before = ShardSet({a}).fingerprint();
  sample[1].second += "12345678";
  write_text_file(a, tar_file(sample));
  CHECK(ShardSet({a}).fingerprint() != before);
  sample = small_sample("l", 0);
  write_text_file(a, tar_file(sample));
  CHECK(ShardSet({a}).fingerprint() != before);
}

TEST_CASE("folders and files without a key are no samples, and nothing of them is lost") {
  TemporaryFolder folder;
  std::string tar = tar_header("data/", 0, '5') + tar_header("data/.hidden", 0) + tar_header("readme", 0);
  tar += shard_of({small_sample("data/a", 1)});
  tar.resize(tar.size() - 1024);
  tar += tar_header("data/", 0, '5') + tar_header("notes", 0) + shard_of({small_sample("data/b", 2)});
  write_text_file(folder / "a.tar", tar);
  const ShardSet set({folder / "a.tar"});
  REQUIRE(set.size() == 2);
  CHECK(set.key(0) == "data/a");
  CHECK(set.place(1) == (folder / "a.tar").string() + ": data/b");
  CHECK(set.read(1).answer_codes.at(0) == some_codes(2, 2));
  std::vector<std::string> names;
  for (const ShardMember& member : set.members(0)) names.push_back(member.name);
  CHECK(names == std::vector<std::string>{"data/.hidden", "readme", "json", "answer.0.npy", "notes"});
}

TEST_CASE("names in pax headers may be long and in any script") {
  TemporaryFolder folder;
  std::string tar;
  std::vector<std::string> keys = {"日本語", "中文字", std::string(120, 'd') + "/" + std::string(120, 'k')};
  for (const std::string& key : keys)
    for (const auto& [path, bytes] : small_sample(key, static_cast<std::int64_t>(key.size()))) {
      // A record "<its length> path=<path>\n", in a member of its own before the file.
      std::string record = " path=" + path + "\n";
      record = std::to_string(record.size() + (record.size() < 98 ? 2 : 3)) + record;
      const std::string pax = tar_header("pax", record.size(), 'x') + record;
      const std::string file = tar_header("name in the pax header", bytes.size()) + bytes;
      for (const std::string& part : {pax, file}) (tar += part).append((512 - part.size() % 512) % 512, '\0');
    }
  write_text_file(folder / "pax.tar", tar + tar_end());
  const ShardSet set({folder / "pax.tar"});
  REQUIRE(set.size() == 3);
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::string& key = keys[static_cast<std::size_t>(i)];
    CHECK(set.key(i) == key);
    CHECK(set.read(i).answer_codes.at(0) == some_codes(2, static_cast<std::int64_t>(key.size())));
  }
}

TEST_CASE("broken archives are refused with the shard's name and the place") {
  TemporaryFolder folder;
  const fs::path path = folder / "broken.tar";
  const auto fails = [&](const std::string& bytes, const std::string& text) {
    write_text_file(path, bytes);
    CHECK_THAT(error_of(path), Contains(path.string()) && Contains(text));
    CHECK_FALSE(fs::exists(folder / "broken.tar.index"));
  };
  const std::string good = shard_of({small_sample("first", 1), small_sample("second", 2)});
  fails("", "at byte 0, not a sound tar archive");
  fails("no archive at all", "not a sound tar archive");
  fails(std::string(5000, 'x'), "not a sound tar archive");
  fails("\x1f\x8b\x08" + std::string(2000, '\3'), "not a sound tar archive");
  for (std::size_t size = 1; size < good.size() - 512; size += 97) fails(good.substr(0, size), "at byte ");
  fails(good.substr(0, good.size() - 1024), "end mark");
  fails(good + good, "behind the archive's end mark");
  std::string damaged = good;
  damaged[good.find("second.json")] = 'S';
  fails(damaged, "at byte 2048, not a sound tar archive");
  fails(tar_header("link", 0, '2') + good, "link: expected a file or a folder");
  fails(tar_header("a.json", 1 << 30) + good, "a.json: expected 1073741824 bytes");

  ShardFiles twice = small_sample("first", 1);
  twice.push_back(twice[0]);
  fails(tar_file(twice), "first: expected every member once, found json again at byte 2048");
  fails(shard_of({small_sample("x/first", 1), small_sample("second", 2), small_sample("x/first", 3)}),
        "x/first: expected the members of a key side by side");
  ShardFiles many;
  for (int i = 0; i < 5000; ++i) many.emplace_back("key." + std::to_string(i), "");
  fails(tar_file(many), "key: expected at most 4096 members");
  write_text_file(path, tar_end());
  CHECK_THAT(error_of(path), Contains("expected samples, found none"));
}

TEST_CASE("what cannot be opened is named") {
  TemporaryFolder folder;
  CHECK_THROWS_WITH(ShardSet({folder / "missing.tar"}), Contains("missing.tar"));
  CHECK_THROWS_WITH(ShardSet({folder.path()}), Contains(folder.path().string()) && Contains("*.tar"));
  CHECK_THROWS_WITH(ShardSet(std::vector<fs::path>{}), Contains("none named"));
}

TEST_CASE("a bad sample is named by shard, key and member, and a shard that shrinks is noticed") {
  TemporaryFolder folder;
  ShardFiles bad = small_sample("two", 1);
  bad[1].second = codes_file(3, 0).substr(0, 200);
  write_text_file(folder / "a.tar", shard_of({small_sample("one", 1), bad}));
  const ShardSet set({folder / "a.tar"});
  CHECK(set.read(0).answer_codes.size() == 1);
  CHECK_THROWS_AS(set.read(1), BadSample);
  CHECK_THROWS_WITH(set.read(1), Contains((folder / "a.tar").string() + ": two: answer.0.npy: ") &&
                                     Contains("expected 192 bytes of int64 [3, 8]"));
  fs::resize_file(folder / "a.tar", 2100);
  CHECK_THROWS_WITH(set.read(1), Contains((folder / "a.tar").string()));
}

// Shards of tens of gigabytes must open without being read: here 64 GiB of holes between the headers.
TEST_CASE("opening a shard skips its contents") {
  TemporaryFolder folder;
  const fs::path path = folder / "sparse.tar";
  const std::uint64_t hole = std::uint64_t{4} << 30;
  {
    std::ofstream out(path, std::ios::binary);
    std::uint64_t at = 0;
    for (int i = 0; i < 16; ++i) {
      std::string sample = tar_file(small_sample("k" + std::to_string(i), i));
      sample.resize(sample.size() - 1024);
      sample += tar_header("k" + std::to_string(i) + ".question.0.wav", hole);
      out.seekp(static_cast<std::streamoff>(at)) << sample;
      at += sample.size() + hole;
    }
    out.seekp(static_cast<std::streamoff>(at)) << tar_end();
    REQUIRE(out.flush());
  }
  const ShardSet set({path});
  REQUIRE(set.size() == 16);
  CHECK(set.key(15) == "k15");
  CHECK(set.read(15).answer_codes.at(0) == some_codes(2, 15));
  CHECK(set.members(15, 8).at(2).bytes == std::string(8, '\0'));
  CHECK_THROWS_WITH(set.members(3), Contains(path.string() + ": k3.question.0.wav: expected at most 1 GiB"));
}

}  // namespace
}  // namespace omni
