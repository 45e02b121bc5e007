#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests: optimised, then under the address and undefined behaviour
# sanitizers. Where nvcc is found the optimised build has the CUDA half; its tests run on a GPU, or through the program
# that OMNI_CUDA_LAUNCHER names (a simulator).
#   scripts/test.sh              all of it
#   scripts/test.sh release      the optimised build only (or: asan)
# OMNI_GOLDENS names a folder of golden data to compare with instead of the committed one (tests/golden/README.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install_deps.sh
presets=("$@")
[ ${#presets[@]} -gt 0 ] || presets=(release asan)

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
if has_gpu; then
  export CUDAARCHS=${CUDAARCHS:-native}
else
  export CUDAARCHS=${CUDAARCHS:-86}  # one architecture is enough to test
fi

# The test programs of the rooms that run kernels, with a GPU to be found.
test_cuda_by_launcher() {
  for room in kernels autograd models trainers golden; do
    echo "== CUDA tests of $room, through $OMNI_CUDA_LAUNCHER"
    OMP_WAIT_POLICY=passive "$OMNI_CUDA_LAUNCHER" "build/release/bin/test_$room"
  done
}

for preset in "${presets[@]}"; do
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset"
done
for preset in "${presets[@]}"; do
  echo "== tests, $preset"
  # Two programs at a time, for much of a test is one thread's work; and a thread that waits gives way to the other.
  OMP_WAIT_POLICY=passive ctest --test-dir "build/$preset" --output-on-failure --parallel 2
done
[[ " ${presets[*]} " == *" release "* ]] || exit 0
if ! command -v nvcc >/dev/null; then
  echo "CUDA: skipped, no nvcc on this machine"
elif has_gpu; then
  echo "CUDA: tested on the GPU, above"
elif [ -n "${OMNI_CUDA_LAUNCHER:-}" ]; then
  test_cuda_by_launcher
else
  echo "CUDA: built; its tests are skipped, there is no GPU and OMNI_CUDA_LAUNCHER is not set"
fi
