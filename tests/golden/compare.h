#pragma once
// What the golden tests of both models share: where the cases are, on which devices, and how far numbers lie apart.

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "tests/support/goldens.h"

namespace omni {

// Every folder PREFIX* with a config.json in the golden data, on every device that is there.
inline std::vector<std::pair<std::filesystem::path, std::string>> golden_cases(const std::string& prefix) {
  const std::filesystem::path root = golden_folder();
  std::vector<std::pair<std::filesystem::path, std::string>> out;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::filesystem::path& path = entry.path();
    if (!path.filename().string().starts_with(prefix) || !std::filesystem::exists(path / "config.json")) continue;
    out.emplace_back(path, "cpu");
    if (cuda_device_count() > 0) out.emplace_back(path, "cuda");
  }
  std::sort(out.begin(), out.end());
  if (out.empty()) FAIL("no golden data: expected folders " << prefix << "* in " << root);
  return out;
}

inline double largest(const std::vector<double>& values) {
  double out = 0;
  for (const double value : values) out = std::max(out, std::abs(value));
  return out;
}

// The largest difference; infinite if any is NaN.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

}  // namespace omni
