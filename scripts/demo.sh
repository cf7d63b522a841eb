#!/usr/bin/env bash
# The demo: makes data from this machine's apt lists, fine-tunes the bundled base model three ways with the same budget
# (head only, LoRA, MSPLoRA) and prints a table. Everything it writes lies in build/demo.
set -euo pipefail
cd "$(dirname "$0")/.."

program=build/release/bin/msplora
if [ ! -x "$program" ]; then
  echo "demo: $program is missing; run 'make build' first" >&2
  exit 1
fi

echo "== data: sections and descriptions of Debian packages"
scripts/make-demo-data.sh build/demo/data

# A second demo starts afresh, its runs never mix with those of the first.
rm -rf build/demo/runs
mkdir -p build/demo/runs

echo "== head only: the base stays frozen"
"$program" train recipes/demo.yaml --set adapter.method=none --set output.dir=build/demo/runs/head
echo "== LoRA, rank 8, on query and value"
"$program" train recipes/demo.yaml --set adapter.method=lora --set output.dir=build/demo/runs/lora
echo "== MSPLoRA, rank 8, three levels, on query and value"
"$program" train recipes/demo.yaml

echo
"$program" results build/demo/runs/head build/demo/runs/lora build/demo/runs/msplora
