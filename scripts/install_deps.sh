#!/usr/bin/env bash
# Installs what building and testing need, from Debian's packages. Asks for nothing; as root, or through sudo.
# Does nothing when all of it is there.
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config git
  libdnnl-dev          # matrix products on the CPU
  nlohmann-json3-dev   # JSON
  libyaml-cpp-dev      # recipes
  libcli11-dev         # command lines
  libpcre2-dev         # the tokenizer's regular expression
  libopenmpi-dev openmpi-bin  # several processes
  libzip-dev           # .pth archives
  libarchive-dev       # shards of training data
  catch2               # tests
  wordnet-base         # text to train on
  python3              # builds the corpus, draws plots
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
