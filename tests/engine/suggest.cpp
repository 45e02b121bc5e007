#include "engine/suggest.h"

#include <catch2/catch.hpp>
#include <vector>

namespace omni {
namespace {

TEST_CASE("edit distance") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("steps", "stpes") == 1);  // a swap
  CHECK(edit_distance("ca", "abc") == 3);       // swaps do not overlap other edits
}

TEST_CASE("nearest name") {
  const std::vector<std::string> names = {"batch_size", "learning_rate", "steps", "seed"};
  CHECK(nearest_name("batchsize", names) == "batch_size");
  CHECK(nearest_name("learnign_rate", names) == "learning_rate");
  CHECK(nearest_name("step", names) == "steps");
  CHECK(nearest_name("color", names).empty());
  CHECK(nearest_name("", names).empty());
  CHECK(nearest_name("x", {}).empty());
  CHECK(nearest_name(std::string(1'000'000, 'x'), names).empty());
  CHECK(did_you_mean("sed", names) == " (did you mean \"seed\"?)");
  CHECK(did_you_mean("color", names).empty());
}

}  // namespace
}  // namespace omni
