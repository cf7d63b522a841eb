#!/usr/bin/env bash
# Measures what the bundled base is worth: head only, LoRA, MSPLoRA, and the same MSPLoRA on a randomly initialised
# base, on one task (sst2, cola or demo), three seeds each. Finished runs are kept, so it can be stopped and continued.
#   MSPLORA_DATA=... scripts/compare-base.sh sst2 [head lora msplora random]
# MSPLORA_DTYPE=bfloat16 is faster on processors that have it, MSPLORA_THREADS=1 on busy machines.
set -euo pipefail
cd "$(dirname "$0")/.."
task=${1:?sst2, cola or demo}
shift
variants=("$@")
[ ${#variants[@]} -gt 0 ] || variants=(head lora msplora random)
program=${MSPLORA_PROGRAM:-build/release/bin/msplora}
model=${MSPLORA_BASE:-models/msplora-base-mini}
out=${MSPLORA_COMPARE_DIR:-build/compare}
recipe=recipes/$task.yaml
data=()
if [ "$task" != demo ]; then
  folder=${MSPLORA_DATA:?names the folder that holds $task/}
  for split in train validation test; do
    file=$(sed -n "s/^  $split: //p" "$recipe")
    data+=(--set "data.$split=$folder/$file")
  done
fi
for seed in 1 2 3; do
  for variant in "${variants[@]}"; do
    run=$out/$task/$variant-$seed
    [ -e "$run/metrics.json" ] && continue
    method=msplora
    extra=()
    case $variant in
      head) method=none ;;
      lora) method=lora ;;
      random) extra=(--set model.random_init=true) ;;
    esac
    rm -rf "$run"
    mkdir -p "$(dirname "$run")"
    "$program" train "$recipe" "${data[@]}" --set "model.path=$model" --set "adapter.method=$method" \
      --set "train.seed=$seed" --set "train.threads=${MSPLORA_THREADS:-0}" --set "train.dtype=${MSPLORA_DTYPE:-float32}" \
      --set "output.dir=$run" --set output.tensorboard=false "${extra[@]}" > "$run.log" 2>&1 ||
      { tail -n 3 "$run.log" >&2; exit 1; }
  done
done
"$program" results "$out/$task"/*-[123]
