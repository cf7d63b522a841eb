#!/usr/bin/env bash
# Makes the numbers of docs/results.md: methods, and forms of MSPLoRA and LoRA, on real bases with five seeds.
# Usage: evidence.sh [STUDY ...]     (all without a STUDY; `evidence.sh --list` names them)
#
# A study is BASE-TASK, or BASE-TASK-parameters with ranks of as many parameters as LoRA's:
#   bases   minilm (all-MiniLM-L6-v2, `scripts/fetch-models.sh minilm`), mini (the bundled encoder)
#   tasks   sst2, cola (MSPLORA_DATA: a folder with sst2/{train,dev,test}.tsv and cola/*.tsv), and from this machine's package
#           lists sections (make-demo-data.sh), needs and likeness (make-pair-data.sh)
#
# OUTPUT/STUDY (OUTPUT: build/evidence) is the directory of `msplora compare recipes/evidence.yaml`; what is done is kept, so that a run that was
# stopped goes on, and METHODS=a,b,... may be widened later (METHODS=all: every method and every form). THREADS: 1. Afterwards
# compare.json of each study lies in OUTPUT as STUDY.json; those of docs/evidence were copied from there.
#
# On one core of an AMD EPYC (Zen 4) a run of minilm-sst2 takes a minute and a study of the recipe's nine rows 72 of them.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${OUTPUT:-build/evidence}
models=${MSPLORA_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/msplora}
program=${MSPLORA:-build/release/bin/msplora}

studies() {
  local base task
  for base in minilm mini; do
    for task in sst2 cola sections needs likeness; do printf '%s-%s\n%s-%s-parameters\n' "$base" "$task" "$base" "$task"; done
  done
}

fail() {
  echo "evidence: $*" >&2
  exit 1
}

# Settings of a base and of a task, into the array `settings`.
add_base() {
  case $1 in
    minilm)
      [ -e "$models/all-MiniLM-L6-v2/config.json" ] || fail "no model in $models/all-MiniLM-L6-v2: run scripts/fetch-models.sh minilm"
      settings+=(--set "model.path=$models/all-MiniLM-L6-v2")
      ;;
    mini) settings+=(--set model.path=models/msplora-base-mini) ;;
    *) fail "no base \`$1\`; there are minilm and mini" ;;
  esac
}

add_files() { settings+=(--set "data.train=$1" --set "data.validation=$2" --set "data.test=$3"); }

add_task() {
  local data=${MSPLORA_DATA:-} made=$output/data
  case $1 in
    sst2 | cola) [ -n "$data" ] || fail "$1 needs MSPLORA_DATA, a folder with sst2/ and cola/" ;;
    sections) [ -e "$made/sections/test.tsv" ] || scripts/make-demo-data.sh "$made/sections" ;;
    needs | likeness) [ -e "$made/likeness/test.tsv" ] || scripts/make-pair-data.sh "$made" ;;
    *) fail "no task \`$1\`; there are sst2, cola, sections, needs and likeness" ;;
  esac
  case $1 in
    sst2)
      add_files "$data/sst2/train.tsv" "$data/sst2/dev.tsv" "$data/sst2/test.tsv"
      settings+=(--set data.header=no --set 'data.text="0"' --set 'data.label="1"')
      ;;
    cola)
      add_files "$data/cola/in_domain_train.tsv" "$data/cola/in_domain_dev.tsv" "$data/cola/out_of_domain_dev.tsv"
      settings+=(--set data.header=no --set 'data.text="3"' --set 'data.label="1"' --set train.best_metric=matthews)
      ;;
    sections) add_files "$made/sections/train.tsv" "$made/sections/validation.tsv" "$made/sections/test.tsv" ;;
    needs | likeness)
      add_files "$made/$1/train.tsv" "$made/$1/validation.tsv" "$made/$1/test.tsv"
      settings+=(--set data.text_pair=text_pair)
      if [ "$1" = likeness ]; then settings+=(--set task.type=regression); fi
      ;;
  esac
}

run_study() {
  local study=$1 base task mode=equal-rank
  studies | grep -qx -- "$study" || fail "no study \`$study\`; there are $(studies | paste -sd ' ')"
  IFS=- read -r base task suffix <<< "$study"
  if [ "$suffix" = parameters ]; then mode=equal-parameters; fi
  settings=()
  add_base "$base"
  add_task "$task"
  if [ -n "${METHODS:-}" ]; then settings+=(--methods "$METHODS"); fi
  "$program" compare recipes/evidence.yaml "${settings[@]}" --mode "$mode" --output "$output/$study" --threads "${THREADS:-1}" --resume
  cp "$output/$study/compare.json" "$output/$study.json"
}

if [ "${1:-}" = --list ]; then
  studies
  exit
fi
mkdir -p "$output"
wanted=("$@")
if [ $# = 0 ]; then mapfile -t wanted < <(studies); fi
for study in "${wanted[@]}"; do
  echo "evidence: $study"
  run_study "$study"
done
