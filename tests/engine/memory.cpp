#include "engine/memory.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <set>

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

TEST_CASE("the pool recycles blocks of about the right size") {
  Pool pool;
  void* const a = pool.take(1000);
  void* const b = pool.take(1000);
  REQUIRE(a != b);
  pool.give_back(a);
  REQUIRE(pool.take(900) == a);  // fits with little waste
  pool.give_back(a);
  REQUIRE(pool.take(64) != a);    // too wasteful
  REQUIRE(pool.take(2000) != a);  // too small
  REQUIRE(pool.take(1000) == a);
  pool.give_back(a);
  pool.give_back(b);
  std::set<void*> both{pool.take(1000), pool.take(1000)};
  REQUIRE(both == std::set<void*>{a, b});
  REQUIRE(pool.allocations() == 1);
}
