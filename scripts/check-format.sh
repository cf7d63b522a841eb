#!/usr/bin/env bash
# Fails if a tracked C++ file is not formatted as .clang-format says.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -d '' files < <(git ls-files -z '*.cc' '*.h')
if [ ${#files[@]} -eq 0 ]; then
  echo "check-format: no C++ files are tracked" >&2
  exit 1
fi
if ! clang-format --dry-run -Werror "${files[@]}"; then
  echo "check-format: FAILED; 'make format' mends it" >&2
  exit 1
fi
echo "check-format: ${#files[@]} files are formatted"
