#pragma once
// Whole numbers of units.

#include <cstddef>
#include <cstdint>

namespace omni {

// How many units of this size hold `count`, which is not negative.
constexpr std::int64_t ceil_div(std::int64_t count, std::int64_t unit) { return (count + unit - 1) / unit; }

// The smallest multiple of `unit` that is not below `value`, which is not negative.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) { return ceil_div(value, unit) * unit; }
constexpr std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace omni
