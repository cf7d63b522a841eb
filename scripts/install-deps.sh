#!/usr/bin/env bash
# Installs what building, testing and checking msplora needs on Debian 12, as root or through sudo.
# Usage: install-deps.sh [--bench] [--list]   (--bench adds what `msplora bench peers` compares with; --list prints the
# package names and does nothing)
# Quick and without network when everything is there already.
set -euo pipefail

packages=(
  g++                  # the compiler (C++20)
  cmake                # the build system, with ctest
  ninja-build          # runs the build
  make                 # the commands in the Makefile
  git                  # the checks look at tracked files
  pkg-config           # finds the libraries without a CMake package
  ccache               # makes the second build quick
  perl                 # scripts for demo data, corpus and checks
  clang-format         # the format check of .ci/run
  clang-tidy           # make lint
  libtorch-dev         # tensors, autograd, linear algebra
  libdnnl-dev          # oneDNN: matrix products on frozen weights, the library libtorch itself uses
  libopenblas0-openmp  # lets libtorch and its BLAS share one OpenMP runtime, so thread counts hold for both
  libyaml-cpp-dev      # recipes
  nlohmann-json3-dev   # config.json, tokenizer.json, safetensors headers, metrics
  libcli11-dev         # the command line
  libfmt-dev           # text formatting
  libspdlog-dev        # logging
  libutf8proc-dev      # Unicode normalisation and categories for tokenizers
  libpcre2-dev         # the split patterns of tokenizers
  zlib1g-dev           # data files packed by gzip
  liblzma-dev          # and by xz
  libgtest-dev         # tests
  libgmock-dev         # matchers in tests
)

if [ "${1:-}" = --bench ]; then
  packages+=(python3-torch)
  shift
fi
if [ "${1:-}" = --list ]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi
if [ $# -gt 0 ]; then
  echo "install-deps: unknown argument '$1'; usage: install-deps.sh [--bench] [--list]" >&2
  exit 2
fi
if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "install-deps: this needs a Debian system with apt; elsewhere install the equivalents of: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2> /dev/null || true)
  if [ "$status" != "install ok installed" ]; then missing+=("$package"); fi
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install-deps: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo > /dev/null; then
    echo "install-deps: run this as root, or install sudo; missing packages: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "install-deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}")

# The lists are fetched only where the packages are unknown or the known versions are gone from the mirror.
known=true
for package in "${missing[@]}"; do
  candidate=$(apt-cache policy "$package" 2> /dev/null | awk '/Candidate:/ { print $2 }')
  if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then known=false; fi
done
if $known && "${install[@]}"; then exit 0; fi
"${as_root[@]}" apt-get update
"${install[@]}"
