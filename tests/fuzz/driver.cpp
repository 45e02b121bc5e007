// Runs a fuzz target without a fuzzer: over its seeds, over every truncation of them, and over random mutations.
//
//   fuzz_<target> [mutations, default 2000] [file ...]    with files, over those instead of the rest
//   fuzz_<target> --write-seeds <folder>                  the seeds as files, a corpus for libFuzzer
//
// The target throws nothing for bad input and returns 0; a crash, a sanitizer's report or an escaped exception fails.

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/files.h"
#include "engine/philox.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
std::vector<std::string> fuzz_seeds();

namespace omni {
namespace {

void run_one(const std::string& input) {
  // A copy of exactly this size, so that the address sanitizer sees a read past the end.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Changes the input at one random place: a bit, a byte, a number of 4 or 8 bytes, a removed, repeated or foreign piece.
void mutate(std::string& input, const std::string& other, Philox& random) {
  constexpr std::uint64_t kNumbers[] = {0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, INT64_MAX, UINT64_MAX};
  if (input.empty()) input = other;
  if (input.empty()) return;
  const std::size_t at = random.below(input.size()),
                    length = 1 + random.below(std::min<std::size_t>(input.size() - at, 64));
  switch (random.below(6)) {
    case 0:
      input[at] = static_cast<char>(input[at] ^ 1 << random.below(8));
      break;
    case 1:
      input[at] = static_cast<char>(random.next());
      break;
    case 2: {
      const std::uint64_t number = kNumbers[random.below(std::size(kNumbers))];
      for (std::size_t i = 0; i < (random.below(2) ? 4u : 8u) && at + i < input.size(); ++i)
        input[at + i] = static_cast<char>(number >> 8 * i);
      break;
    }
    case 3:
      input.erase(at, length);
      break;
    case 4:
      input.insert(at, input.substr(at, length));
      break;
    default:
      if (!other.empty()) input.insert(at, other.substr(random.below(other.size()), length));
  }
}

// Every truncation of a short seed; of a long one as many, evenly spread.
void run_truncations(const std::string& seed) {
  constexpr std::size_t kMany = 4096;
  const std::size_t count = std::min(seed.size(), kMany);
  for (std::size_t i = 0; i < count; ++i) run_one(seed.substr(0, i * seed.size() / count));
}

void run_mutations(const std::vector<std::string>& seeds, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    Philox random(1, RandomStream::test, i);
    std::string input = seeds[random.below(seeds.size())];
    for (std::uint64_t changes = 1 + random.below(4); changes > 0; --changes)
      mutate(input, seeds[random.below(seeds.size())], random);
    try {
      run_one(input);
    } catch (...) {
      std::cerr << "mutation " << i << " failed\n";
      throw;
    }
  }
}

int run(const std::vector<std::string>& arguments) {
  const std::vector<std::string> seeds = fuzz_seeds();
  if (arguments.size() == 2 && arguments[0] == "--write-seeds") {
    std::filesystem::create_directories(arguments[1]);
    for (std::size_t i = 0; i < seeds.size(); ++i)
      write_text_file(std::filesystem::path(arguments[1]) / ("seed-" + std::to_string(i)), seeds[i]);
    return 0;
  }
  std::uint64_t mutations = 2000;
  bool files = false;
  for (const std::string& argument : arguments) {
    const auto end = argument.data() + argument.size();
    if (std::from_chars(argument.data(), end, mutations).ptr == end) continue;
    run_one(read_text_file(argument));
    files = true;
  }
  if (files) return 0;
  for (const std::string& seed : seeds) {
    run_one(seed);
    run_truncations(seed);
  }
  if (!seeds.empty()) run_mutations(seeds, mutations);
  std::cout << seeds.size() << " seeds, " << mutations << " mutations\n";
  return 0;
}

}  // namespace
}  // namespace omni

int main(int count, char** arguments) try {
  return omni::run({arguments + 1, arguments + count});
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
