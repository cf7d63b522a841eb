#!/usr/bin/env bash
# What matrix units give: products, kernels, training steps and an epoch with our kernels on tiles and with those on vectors, in
# turn, as docs/performance.md asks for them. For a processor with AMX and nothing beside it; takes about an hour, --quick minutes.
# Usage: matrix-units.sh [--quick] [OUTPUT]      (OUTPUT: build/matrix-units, which gets everything that was printed)
#
# TILES (amx) and VECTORS (avx512bf16) name the instruction sets: `TILES=avx512bf16 VECTORS=avx512` tries the script where there is
# no AMX. MSPLORA names the program, THREADS (2) its threads, ROUNDS (4) how often steps are run, BEFORE another build of it that is
# timed with VECTORS in turn (has the vector kind lost anything?), PYTHON an interpreter with torch, transformers and peft for the
# peers, MSPLORA_DATA a folder with sst2/train.tsv for the epoch, MSPLORA_CASES the shared golden cases.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
if [ "${1:-}" = --quick ]; then quick=1 && shift; fi
output=${1:-build/matrix-units}
program=${MSPLORA:-build/release/bin/msplora}
tiles=${TILES:-amx}
vectors=${VECTORS:-avx512bf16}
threads=${THREADS:-2}
rounds=${ROUNDS:-4} batch=16 few=() short=()
if [ -n "$quick" ]; then rounds=1 batch=2 few=(--tokens 512 --repeat 3) short=(--shape bert-mini --max-steps 4); fi
mkdir -p "$output"
: > "$output/steps.jsonl"

if ! MSPLORA_ISA=$tiles "$program" bench gemm --size 16x64x64 --repeat 1 --threads 1 > /dev/null 2> "$output/refused"; then
  cat "$output/refused" >&2
  exit 1
fi
rm -f "$output/refused"

section() { printf '\n== %s\n' "$*" | tee -a "$output/log.txt"; }
report() { "$@" 2>&1 | tee -a "$output/log.txt"; }

# step NAME WAYS OPTIONS...: every way once a round; the line of each has the name, the way and what bench step says.
every="tiles vectors ${BEFORE:+before}"
step() {
  local name=$1 ways=$2 round way isa of options
  shift 2
  section "$name: bench step $*"
  for ((round = 0; round < rounds; ++round)); do
    for way in $ways; do
      isa=$vectors of=$program
      if [ "$way" = tiles ]; then isa=$tiles; fi
      if [ "$way" = before ]; then of=$BEFORE; fi
      options=("$@" --threads "$threads" --steps "${STEPS:-3}" --json)
      MSPLORA_ISA=$isa "$of" bench step "${options[@]}" 2> /dev/null |
        NAME=$name WAY=$way perl -MJSON::PP -0777 -ne '
          my $r = decode_json($_);
          print encode_json({name => $ENV{NAME}, way => $ENV{WAY}, seconds => $r->{step}{seconds}, flops => $r->{flops},
                             peak_share => $r->{peak_share}, roof_share => $r->{roof_share}}), "\n"' >> "$output/steps.jsonl"
    done
  done
}

section "products, $tiles beside oneDNN and libtorch"
report env MSPLORA_ISA="$tiles" "$program" bench gemm --dtype bfloat16 --threads "$threads" "${few[@]}"
for rows in 2048 100 16 1; do
  report env MSPLORA_ISA="$tiles" "$program" bench gemm --dtype bfloat16 --size "${rows}x768x3072" --threads "$threads" --repeat 5
done
for precision in exact high medium; do
  report env MSPLORA_ISA="$tiles" "$program" bench gemm --dtype float32 --matmul-precision $precision --threads "$threads" \
    "${few[@]}"
done

section "kernels"
for isa in "$vectors" "$tiles"; do
  for dtype in bfloat16 float32; do
    report env MSPLORA_ISA="$isa" "$program" bench kernels --dtype $dtype --batch $batch --seq 128 --threads "$threads"
  done
done

encoder=(--shape roberta-base --batch 16 --seq 128 --adapter-dropout 0.05)
llama=(--shape llama-160m --method lora --batch 4 --seq 512)
smollm=(--shape smollm2-135m --method lora --batch 4 --seq 512
  --target-modules q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj)
if [ -n "$quick" ]; then
  encoder=(--shape bert-mini --batch 4 --seq 64) llama=(--shape bert-mini --method lora --batch 2 --seq 64) smollm=("${llama[@]}")
fi
step roberta-base-bfloat16 "$every" "${encoder[@]}" --dtype bfloat16
step llama-160m-bfloat16 "$every" "${llama[@]}" --dtype bfloat16
step smollm2-135m-bfloat16 "$every" "${smollm[@]}" --dtype bfloat16
if [ -z "$quick" ]; then step deberta-v3-base-bfloat16 "$every" --shape deberta-v3-base --batch 16 --seq 128 --dtype bfloat16; fi
# Exact products of floats are those of the vector kernels on either.
for precision in exact high medium; do
  ways=tiles
  if [ $precision = exact ]; then ways="vectors ${BEFORE:+before}"; fi
  step roberta-base-float32-$precision "$ways" "${encoder[@]}" --dtype float32 --matmul-precision $precision
  step llama-160m-float32-$precision "$ways" "${llama[@]}" --dtype float32 --matmul-precision $precision
done

section "steps: medians of the seconds, and how often the tiles' step goes into the others'"
perl -MJSON::PP -ne '
  my $r = decode_json($_);
  push @names, $r->{name} unless grep { $_ eq $r->{name} } @names;
  push @{$s{$r->{name}}{$r->{way}}}, @{$r->{seconds}};
  push @{$share{$r->{name}}{$r->{way}}}, $r->{peak_share} // 0;
  sub median { my @v = sort { $a <=> $b } @_; return @v ? $v[@v / 2] : 0 }
  END {
    for my $name (@names) {
      printf "%-28s", $name;
      for my $way (grep { $s{$name}{$_} } qw(tiles vectors before)) {
        printf "  %s %.3f (%.1f %% of the peak)", $way, median(@{$s{$name}{$way}}), 100 * median(@{$share{$name}{$way}});
      }
      my $exact = $name =~ s/float32-\w+$/float32-exact/r;
      printf "  vectors / tiles %.2f", median(@{$s{$exact}{vectors}}) / median(@{$s{$name}{tiles}}) if $s{$name}{tiles};
      printf "  before / vectors %.2f", median(@{$s{$name}{before}}) / median(@{$s{$name}{vectors}}) if $s{$name}{before};
      print "\n";
    }
  }' "$output/steps.jsonl" | tee -a "$output/log.txt"

if [ -n "${PYTHON:-}" ]; then
  section "peers, in turn"
  peers() { report env MSPLORA_ISA="$tiles" "$program" bench peers --python "$PYTHON" --threads "$threads" --rounds 2 "$@"; }
  peers "${encoder[@]}" --dtype bfloat16
  for dtype in bfloat16 float32; do
    peers --peer transformers "${llama[@]}" --dtype $dtype --matmul-precision "$([ $dtype = float32 ] && echo medium || echo exact)"
  done
  peers --peer transformers "${smollm[@]}" --dtype bfloat16
fi

if [ -n "${MSPLORA_DATA:-}" ]; then
  section "an epoch of SST-2 with drawn weights"
  for way in tiles vectors tiles vectors; do
    isa=$vectors
    if [ $way = tiles ]; then isa=$tiles; fi
    report env MSPLORA_ISA="$isa" "$program" bench epoch --data "$MSPLORA_DATA/sst2/train.tsv" --text 0 --label 1 --tokenizer models/msplora-base-mini \
      --dtype bfloat16 --batch-size 64 --threads "$threads" "${short[@]}"
  done
fi

section "golden cases with $tiles"
MSPLORA_ISA=$tiles report ctest --test-dir build/release -R golden
echo "everything is in $output"
