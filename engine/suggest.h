#pragma once
// "Did you mean ...?": the nearest known name for one that is not known.

#include <span>
#include <string>
#include <string_view>

namespace omni {

// Number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`, none of them
// overlapping (optimal string alignment, a restricted Damerau-Levenshtein distance). Names are compared byte by byte.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `name` (the first of equals), empty when none is within a third of its length.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

// " (did you mean \"x\"?)" to be put behind an error message, or nothing when no candidate is near.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

}  // namespace omni
