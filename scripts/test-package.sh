#!/usr/bin/env bash
# Builds against the libtorch inside PyPI's torch package and runs all tests, in a folder of its own.
# Usage: test-package.sh [FOLDER]      (FOLDER: build/package)
# The package is the one that PYTHON (default: FOLDER/venv/bin/python, made and filled where it is missing; several GB with CUDA)
# imports as torch. TORCH_PACKAGE (default: torch) names what pip installs, for instance torch==2.15.0.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "test-package: $*" >&2
  exit 1
}

folder=${1:-build/package}
mkdir -p "$folder"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$folder/venv/bin/python
  if ! "$PYTHON" -c 'import torch' 2> /dev/null; then
    echo "== ${TORCH_PACKAGE:-torch} into $folder/venv"
    python3 -m venv "$folder/venv" || fail "python3 makes no virtual environment; on Debian: apt-get install python3-venv"
    "$PYTHON" -m pip install --quiet "${TORCH_PACKAGE:-torch}" || fail "pip did not install ${TORCH_PACKAGE:-torch}"
  fi
fi
prefix=$("$PYTHON" -c 'import torch; print(torch.utils.cmake_prefix_path)') || fail "$PYTHON cannot import torch"
"$PYTHON" -c 'import torch; print("== torch", torch.__version__, "CUDA", torch.version.cuda, "in", torch.__path__[0])'

scripts/install-deps.sh
cmake --preset release -B "$folder/release" -DCMAKE_PREFIX_PATH="$prefix"
cmake --build "$folder/release" --parallel "${JOBS:-$(nproc)}"

# Two OpenMP runtimes in one process would each start their own threads; two libtorchs would crash.
for library in libgomp libtorch_cpu libc10 libfmt libdnnl; do
  found=$(ldd "$folder/release/bin/msplora" | grep -oE "=> [^ ]*/$library[-.][^ ]*" | sort -u)
  [ "$(wc -l <<< "$found")" = 1 ] && [ -n "$found" ] || fail "$library is not loaded exactly once: $found"
  echo "$library $found"
done
ctest --test-dir "$folder/release" --output-on-failure
