#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests: optimised, then under the address and undefined behaviour
# sanitizers.
#   scripts/test.sh              all of it
#   scripts/test.sh release      the optimised build only (or: asan)
# OMNI_GOLDENS names a folder of golden data to compare with instead of the committed one (tests/golden/README.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install_deps.sh
presets=("$@")
[ ${#presets[@]} -gt 0 ] || presets=(release asan)

for preset in "${presets[@]}"; do
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset"
done
for preset in "${presets[@]}"; do
  echo "== tests, $preset"
  ctest --test-dir "build/$preset" --output-on-failure
done
command -v nvcc >/dev/null || echo "CUDA: skipped, no nvcc on this machine"
