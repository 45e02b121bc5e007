// Fuzz target: a tar shard from hostile bytes, scanned, then every sample read and checked. Damage to a sample's files
// is tried under sound headers, too.

#include <cstring>
#include <stdexcept>

#include "tests/support/omni_shard.h"
#include "trainers/omni_row.h"
#include "trainers/samples.h"
#include "trainers/shard_index.h"

namespace {

using namespace omni;

ReadAt read_at(std::string_view bytes) {
  return [bytes](std::uint64_t offset, void* to, std::size_t count) {
    if (offset >= bytes.size()) return std::size_t{0};
    count = std::min<std::size_t>(count, bytes.size() - offset);
    std::memcpy(to, bytes.data() + offset, count);
    return count;
  };
}

void check(std::span<const ShardMember> members) {
  OmniRowProblems problems;
  check_omni_row(members, {}, problems);
  try {
    parse_omni_row(members, {});
  } catch (const BadSample&) {
  }
}

void read_shard(std::string_view bytes) try {
  std::vector<std::uint64_t> begins;
  scan_shard(read_at(bytes), bytes.size(), "input", [&](std::uint64_t begin) { begins.push_back(begin); });
  begins.push_back(bytes.size());
  for (std::size_t i = 0; i + 1 < begins.size(); ++i) {
    TarReader tar(read_at(bytes), begins[i], begins[i + 1], "input");
    std::vector<ShardMember> members;
    while (tar.next())
      if (!tar.is_folder()) members.push_back({std::string(split_member_name(tar.path()).field), tar.read()});
    check(members);
  }
} catch (const std::runtime_error&) {
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::string pax = tar_header("pax", 17, 'x') + "17 path=a/b.json\n" + std::string(512 - 17, '\0');
  return {shard_of({small_sample("a", 1), small_sample("b", 2)}), pax + tar_file(small_sample("x", 1)),
          small_sample("a", 1)[0].second, codes_file(1, 1), "question.0.wav"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read_shard(bytes);
  // As the content of one file, and as the name of another.
  constexpr const char* kNames[] = {"json",        "answer.0.npy",   "reference.npy",
                                    "speaker.npy", "question.0.npy", "image.npy"};
  std::vector<ShardMember> members = {{"json", small_sample("k", 1)[0].second}, {bytes, "RIFF"}};
  const char* name = kNames[size % std::size(kNames)];
  if (name == std::string("json"))
    members[0].bytes = bytes;
  else
    members.push_back({name, bytes});
  check(members);
  return 0;
}
