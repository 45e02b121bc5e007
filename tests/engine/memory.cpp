#include "engine/memory.h"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <vector>

using namespace omni;

namespace {

bool is_aligned(const void* pointer, std::size_t unit) { return reinterpret_cast<std::uintptr_t>(pointer) % unit == 0; }

}  // namespace

TEST_CASE("buffers are aligned, and tensors start as zeros") {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{4097}}) {
    const Buffer buffer(bytes);
    REQUIRE(is_aligned(buffer.data(), 64));
    REQUIRE(buffer.bytes() == bytes);
  }
  const Buffer large(std::size_t{5} << 20);
  REQUIRE(is_aligned(large.data(), std::size_t{2} << 20));
  OwnedTensor tensor(DType::bf16, {3, 7});
  for (std::int64_t i = 0; i < 21; ++i) REQUIRE(tensor.as<bf16>()[i].bits == 0);
  const void* data = tensor.view().data;
  const OwnedTensor moved = std::move(tensor);
  REQUIRE(moved.view().data == data);
  REQUIRE(moved.view().shape == Shape{3, 7});
  REQUIRE_THROWS_AS(moved.as<float>(), std::logic_error);
}

// AddressSanitizer keeps what was freed for a while.
#ifndef __SANITIZE_ADDRESS__
TEST_CASE("what large buffers held goes back to the system") {
  const auto resident = [] {
    std::ifstream in("/proc/self/statm");
    std::size_t all = 0, pages = 0;
    in >> all >> pages;
    return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  };
  const auto touched = [](std::size_t megabytes) {
    Buffer buffer(megabytes << 20);
    std::memset(buffer.data(), 1, buffer.bytes());
    return buffer;
  };
  touched(30);  // glibc learns that blocks of this size come and go
  std::vector<Buffer> blocks;
  for (int i = 0; i < 9; ++i) blocks.push_back(touched(4));
  const std::size_t before = resident();
  for (std::size_t i = 1; i < 9; i += 2) blocks[i] = {};
  REQUIRE(resident() < before - (12 << 20));
}
#endif

TEST_CASE("the arena hands out disjoint memory, and the same again after a reset") {
  Arena arena(Place::host, 4096);
  const std::size_t requests[] = {1, 64, 100, 5000, 4096, 0, 33};
  std::vector<std::byte*> first;
  for (int round = 0; round < 3; ++round) {
    std::vector<std::byte*> blocks;
    for (const std::size_t bytes : requests) {
      blocks.push_back(static_cast<std::byte*>(arena.take(bytes)));
      REQUIRE(is_aligned(blocks.back(), 64));
      std::memset(blocks.back(), static_cast<int>(blocks.size()), bytes);
    }
    for (std::size_t i = 0; i < blocks.size(); ++i)
      for (std::size_t j = 0; j < requests[i]; ++j) REQUIRE(std::to_integer<std::size_t>(blocks[i][j]) == i + 1);
    if (round == 0) first = blocks;
    REQUIRE(blocks == first);
    REQUIRE(arena.allocations() == 4);  // what does not fit into the open chunk opens another
    REQUIRE(arena.used() >= 1 + 64 + 100 + 5000 + 4096 + 33);
    REQUIRE(arena.reserved() >= arena.used());
    arena.reset();
    REQUIRE(arena.used() == 0);
  }
}

TEST_CASE("lent memory is handed out in lines, joined where it is joined, and forgotten by a reset") {
  Arena owner(Place::host, 4096);
  auto* const memory = static_cast<std::byte*>(owner.take(4096));
  LentMemory lent;
  REQUIRE(lent.take(1) == nullptr);
  lent.lend(memory, 128);
  lent.lend(memory + 192, 256);  // a gap before it
  REQUIRE(lent.take(200) == memory + 192);
  REQUIRE(lent.take(1) == memory);
  REQUIRE(lent.take(65) == nullptr);
  lent.lend(memory + 448, 100);  // continues what is empty now
  REQUIRE(lent.take(64) == memory + 64);
  REQUIRE(lent.take(64) == memory + 448);
  REQUIRE(lent.take(64) == nullptr);  // 36 bytes are no line
  lent.lend(memory + 512 + 36, 28);   // now they are
  REQUIRE(lent.take(64) == memory + 512);
  lent.lend(memory + 1024, 1024);
  lent.reset();
  REQUIRE(lent.take(1) == nullptr);
}

TEST_CASE("the pool cuts blocks from the first free piece and joins what comes back") {
  Pool pool(Place::host, 4096);
  void* const a = pool.take(1000);
  void* const b = pool.take(1000);
  void* const c = pool.take(1000);
  REQUIRE(std::set<void*>{a, b, c}.size() == 3);
  pool.give_back(b);
  REQUIRE(pool.take(64) == b);    // what is left behind it is free
  REQUIRE(pool.take(2000) != b);  // too large for it, and for the end of the chunk
  REQUIRE(pool.allocations() == 2);
  pool.give_back(a);
  pool.give_back(b);
  REQUIRE(pool.take(2048) == a);  // both places and what lay between
  pool.give_back(c);
  REQUIRE(pool.take(2048) == c);  // with the end of the chunk, but not with the next one
  REQUIRE(pool.take(8000) != nullptr);
  REQUIRE(pool.allocations() == 3);
  REQUIRE(pool.reserved() >= 2 * 4096 + 8000);
  pool.give_back(a);
  REQUIRE_THROWS_AS(pool.give_back(a), std::invalid_argument);  // a second time
  REQUIRE_THROWS_AS(pool.give_back(&pool), std::invalid_argument);
}

TEST_CASE("blocks of the pool never overlap, in any order, and all of it is free again in the end") {
  Pool pool(Place::host, 1 << 16);
  struct Block {
    std::byte* data;
    std::size_t bytes;
    std::byte mark;
  };
  std::vector<Block> blocks;
  std::minstd_rand dice(7);
  for (int step = 0; step < 5000; ++step) {
    if (blocks.size() < 40 && dice() % 2 == 0) {
      const std::size_t bytes = dice() % 3000;
      const Block block{static_cast<std::byte*>(pool.take(bytes)), bytes, static_cast<std::byte>(dice())};
      REQUIRE(is_aligned(block.data, 64));
      std::fill_n(block.data, bytes, block.mark);
      blocks.push_back(block);
    } else if (!blocks.empty()) {
      std::swap(blocks[dice() % blocks.size()], blocks.back());
      const Block block = blocks.back();
      REQUIRE(std::all_of(block.data, block.data + block.bytes, [&](std::byte b) { return b == block.mark; }));
      pool.give_back(block.data);
      blocks.pop_back();
    }
  }
  for (const Block& block : blocks) pool.give_back(block.data);
  const std::uint64_t allocations = pool.allocations();
  for (std::uint64_t chunk = 0; chunk < allocations; ++chunk) pool.take(1 << 16);
  REQUIRE(pool.allocations() == allocations);
}
