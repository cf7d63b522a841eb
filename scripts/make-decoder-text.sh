#!/usr/bin/env bash
# Makes the text that the bundled decoder learns from out of what make-corpus.sh has made: all package descriptions, and
# every eighth line of the rest, chosen by hash, so that descriptions are a third of it.
# Usage: make-decoder-text.sh [CORPUS_DIR=build/corpus] [OUTPUT_DIR=build/decoder]
# Writes OUTPUT_DIR/train.txt, heldout.txt and descriptions.txt, the held-out lines that are descriptions.
set -euo pipefail
export LC_ALL=C

corpus=${1:-build/corpus}
output=${2:-build/decoder}
[ -s "$corpus/work/all.tsv" ] || { echo "make-decoder-text: no $corpus/work/all.tsv, run make-corpus.sh first" >&2; exit 1; }
mkdir -p "$output"
# Columns: hash of the line, source, line; the last two digits of the hash divide train from held-out, as in the corpus.
awk -F '\t' -v out="$output" '
  { is_description = $2 == "package-descriptions"
    if (!is_description && substr($1, 30, 1) !~ /[08]/) next
    is_heldout = substr($1, 31, 2) ~ /^(00|55|aa)$/
    print $3 > (out "/" (is_heldout ? "heldout" : "train") ".part")
    if (is_heldout && is_description) print $3 > (out "/descriptions.part") }' "$corpus/work/all.tsv"
for name in train heldout descriptions; do mv "$output/$name.part" "$output/$name.txt"; done
wc -lc "$output"/*.txt
