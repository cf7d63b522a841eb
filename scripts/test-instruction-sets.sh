#!/usr/bin/env bash
# Runs the unit tests with each instruction set that this processor has chosen by hand: in our own kernels (MSPLORA_ISA), oneDNN
# (DNNL_MAX_CPU_ISA), libtorch (ATEN_CPU_CAPABILITY) and OpenBLAS (OPENBLAS_CORETYPE). A row that the processor lacks is
# named and left out. Our portable kernels leave products to oneDNN: two rows run those, its oldest and its best.
# Usage: test-instruction-sets.sh [BUILD [GTEST_FILTER]]     (BUILD: build/release; GTEST_FILTER: all but the golden cases)
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build/release}
filter=${2:--*Golden*}
if [ ! -x "$build/bin/torch_tests" ]; then
  echo "test-instruction-sets: $build/bin/torch_tests is missing; run 'make build' first" >&2
  exit 1
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
# name, MSPLORA_ISA, DNNL_MAX_CPU_ISA, ATEN_CPU_CAPABILITY, OPENBLAS_CORETYPE; "-": as found on this processor
while read -r name isa onednn aten blas; do
  settings=(MSPLORA_ISA="$isa")
  if [ "$onednn" != - ]; then settings+=(DNNL_MAX_CPU_ISA="$onednn"); fi
  if [ "$aten" != - ]; then settings+=(ATEN_CPU_CAPABILITY="$aten"); fi
  if [ "$blas" != - ]; then settings+=(OPENBLAS_CORETYPE="$blas"); fi
  if ! env "${settings[@]}" "$build/bin/torch_tests" --gtest_filter=Isa.* > "$output" 2>&1; then
    if grep -q "this processor runs no instruction set" "$output"; then
      echo "$name: not on this processor"
      continue
    fi
  fi
  status=0
  env "${settings[@]}" "$build/bin/torch_tests" --gtest_filter="$filter" > "$output" 2>&1 || status=$?
  echo "$name (${settings[*]}): $(grep -E '^\[  (PASSED|FAILED)  \] [0-9]+ test' "$output" | tr -d '[]' | tr -s ' ' | tr '\n' ';')"
  if [ $status != 0 ]; then
    failed=1
    grep -E '^\[  FAILED  \] [^0-9]|: Failure' "$output" | sort -u | head -n 40 >&2
  fi
done << 'ROWS'
oldest portable SSE41 default Nehalem
avx2 avx2 AVX2 avx2 Haswell
avx512 avx512 AVX512_CORE avx512 SkylakeX
avx512bf16 avx512bf16 AVX512_CORE_BF16 avx512 Cooperlake
oneDNN portable - - -
ROWS
exit $failed
