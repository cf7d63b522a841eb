#!/usr/bin/env bash
# Makes the numbers of docs/results.md: methods, and forms of MSPLoRA and LoRA, on real bases with five seeds.
# Usage: evidence.sh [STUDY ...]     (all without a STUDY; `evidence.sh --list` names them)
#
# A study is BASE-TASK or BASE-TASK-ROWS:
#   bases   minilm (all-MiniLM-L6-v2, `scripts/fetch-models.sh minilm`), mini (the bundled encoder), smollm2
#           (SmolLM2-135M-Instruct, `scripts/fetch-models.sh smollm2`; its task is facts), decoder (the bundled one; chat)
#   tasks   sst2, cola (MSPLORA_DATA: a folder with sst2/{train,dev,test}.tsv and cola/*.tsv), and from this machine's package
#           lists sections (make-demo-data.sh), needs and likeness (make-pair-data.sh); facts (make-facts.py, needs python3)
#           and chat (make-chat-data.sh): instructions, where `evidence-analysis.pl answers` tells how many answers are right
#           to the letter
#   rows    none: LoRA and MSPLoRA at equal rank and at equal parameters, ASLoRA, full, the head alone
#           methods: every method; forms: MSPLoRA in other shapes of equal size; effects: methods with and without what
#           they are about; parameters: methods whose rank is free, with as many parameters as LoRA has; long: LoRA
#           and MSPLoRA over six epochs; ranks: LoRA with ranks from the spectrum of a short run; head: LoRA and MSPLoRA with
#           a rate of the head that suits the head alone, 0.03
#
# OUTPUT/BASE-TASK (OUTPUT: build/evidence) is a directory of `msplora compare recipes/evidence.yaml` (of facts:
# recipes/compare-facts.yaml); what is done is kept, so that a run that was stopped goes on, and studies of one base and task
# share their runs. METHODS=a,b,... takes other rows, THREADS (1) threads. Afterwards compare.json of each study lies in OUTPUT as
# STUDY.json; those of docs/evidence were copied from there. Every run keeps its adapter: scripts/evidence-analysis.pl looks into
# them.
#
# On one core of an AMD EPYC (Zen 5) a run of minilm-sst2 takes 35 seconds, one of minilm-needs 27, and a row seven to ten runs.
set -euo pipefail
cd "$(dirname "$0")/.."

output=${OUTPUT:-build/evidence}
models=${MSPLORA_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/msplora}
program=${MSPLORA:-build/release/bin/msplora}

bases=(minilm mini)
tasks=(sst2 cola sections needs likeness)
kinds=("" methods forms effects parameters long ranks head)
smollm2=SmolLM2-135M-Instruct.Q4_1.gguf
aggregators=(fedit ffa flora flexlora fedex lora_fair)

studies() {
  local base task kind
  for base in "${bases[@]}"; do
    for task in "${tasks[@]}"; do
      for kind in "${kinds[@]}"; do echo "$base-$task${kind:+-$kind}"; done
    done
  done
  printf '%s\n' minilm-sst2-aggregators mini-sst2-aggregators smollm2-facts decoder-chat
}

fail() {
  echo "evidence: $*" >&2
  exit 1
}

# Settings of a base, a task and a kind of rows, into the array `settings`.
add_base() {
  case $1 in
    minilm)
      [ -e "$models/all-MiniLM-L6-v2/config.json" ] || fail "no model in $models/all-MiniLM-L6-v2: run scripts/fetch-models.sh minilm"
      settings+=(--set "model.path=$models/all-MiniLM-L6-v2")
      ;;
    mini) settings+=(--set model.path=models/msplora-base-mini) ;;
    decoder) settings+=(--set model.path=models/msplora-decoder-mini) ;;
    smollm2)
      [ -e "$models/$smollm2" ] || fail "no model $models/$smollm2: run scripts/fetch-models.sh smollm2"
      settings+=(--set "model.path=$models/$smollm2")
      ;;
  esac
}

add_files() { settings+=(--set "data.train=$1" --set "data.validation=$2" --set "data.test=$3"); }

add_task() {
  local data=${MSPLORA_DATA:-} made=$output/data
  case $1 in
    sst2 | cola) [ -n "$data" ] || fail "$1 needs MSPLORA_DATA, a folder with sst2/ and cola/" ;;
    sections) [ -e "$made/sections/test.tsv" ] || scripts/make-demo-data.sh "$made/sections" ;;
    facts) [ -e "$made/facts/train.jsonl" ] || python3 scripts/make-facts.py "$made/facts" ;;
    chat) [ -e "$made/chat/test.jsonl.gz" ] || scripts/make-chat-data.sh "$made/chat" ;;
    needs | likeness) [ -e "$made/likeness/test.tsv" ] || scripts/make-pair-data.sh "$made" ;;
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
    facts)
      recipe=recipes/compare-facts.yaml
      settings+=(--set "data.train=$made/facts/train.jsonl" --set "data.validation=$made/facts/validation.jsonl")
      ;;
    chat)
      recipe=recipes/compare-facts.yaml
      add_files "$made/chat/train.jsonl.gz" "$made/chat/validation.jsonl.gz" "$made/chat/test.jsonl.gz"
      settings+=(--set train.token_budget=1024)
      ;;
    sections) add_files "$made/sections/train.tsv" "$made/sections/validation.tsv" "$made/sections/test.tsv" ;;
    needs | likeness)
      add_files "$made/$1/train.tsv" "$made/$1/validation.tsv" "$made/$1/test.tsv"
      settings+=(--set data.text_pair=text_pair)
      if [ "$1" = likeness ]; then settings+=(--set task.type=regression); fi
      ;;
  esac
  case $1 in
    # Query and value alone, or two epochs, teach minilm nothing of grammar and little of likeness.
    cola | likeness) settings+=(--set 'adapter.target_modules=[all-linear]' --set train.epochs=6 --set train.token_budget=512) ;;
  esac
}

# The variant lora-spectrum: a few steps with rank 16; of its singular values in all sites together the largest are kept, as
# many as LoRA of rank 8 has rows; a site's rank is how many of its own are among them, and every site is scaled as LoRA of rank 8.
add_ranks_of_short_run() {
  local short=$directory/short run=runs/lora-short/lr-0.001-seed-1
  "$program" compare "$recipe" "${settings[@]}" --methods lora-short --lr-grid 0.001 --seeds 1 --output "$short" \
    --threads "${THREADS:-1}" --resume > /dev/null
  settings+=(--set "compare.variants.lora-spectrum=$("$program" analyze "$short/$run" --json 2> /dev/null | perl -MJSON::PP -0777 -ne '
    my @sites = @{decode_json($_)->{adapters}[0]{sites}};
    my %rank = map { $_->{path} => 1 } @sites;  # at least one each
    my @values = sort { $b->[0] <=> $a->[0] } map { my $site = $_; map { [$_, $site->{path}] } @{$site->{whole}{values}}[1 .. $#{$site->{whole}{values}}] } @sites;
    $rank{$_->[1]}++ for @values[0 .. 7 * @sites - 1];
    my $ranks = join(", ", map { "$_: $rank{$_}" } sort keys %rank);
    my $alphas = join(", ", map { "$_: " . 2 * $rank{$_} } sort keys %rank);
    print "[adapter.method=lora, adapter.dropout=0.05, \"adapter.rank_pattern={$ranks}\", \"adapter.alpha_pattern={$alphas}\"]";
  ')")
}

add_rows() {
  local rows=
  case $1 in
    methods) rows=lora,msplora,aslora,prilora,gelora,lorta,ttlora,glora,flatlora,lorapro,xgblora,vera,bitfit,full,none ;;
    forms)
      rows=msplora,msplora-1,msplora-2,msplora-4,msplora-equal,msplora-rising,msplora-2-groups,msplora-ends,msplora-stages
      rows+=,msplora-owner,msplora-all,lora,lora-r5,lora-all
      settings+=(--reference msplora)
      ;;
    effects)
      rows=lora,lora-r1,lora-r2,lora-r64,rslora-r64,dora,pissa,aslora,aslora-unmerged,prilora,prilora-unpruned,prilora-level
      rows+=,gelora,flatlora,flatlora-still,xgblora,xgblora-2,xgblora-8,glora,glora-random,glora-fixed,lorta-r2,ttlora-r2,none
      ;;
    ranks)
      add_ranks_of_short_run
      rows=lora,lora-spectrum
      ;;
    parameters) rows=lora,msplora,aslora,lorta,ttlora,glora,vera ;;
    long)
      rows=lora,lora-r5,msplora
      settings+=(--set train.epochs=6)
      ;;
    head)
      rows=lora,lora-r5,msplora
      settings+=(--set train.head_lr=0.03)
      ;;
  esac
  rows=${METHODS:-$rows}
  if [ -n "$rows" ]; then settings+=(--methods "$rows"); fi
}

# The aggregators on the same clients. A rate is tried with seed 1, further ones beyond it while the outermost is the best on
# the validation data; with the best one come seeds 2 to 5.
run_aggregators() {
  local directory=$1 study=$2 name rate seed low high best runs rows=
  local rates=(0.0001 0.0003 0.001 0.003 0.01 0.03 0.1 0.3)
  federate() {
    [ -e "$directory/runs/$name/lr-$1-seed-$2/metrics.json" ] && return
    mkdir -p "$directory/runs/$name"
    "$program" federate recipes/federated.yaml "${settings[@]}" --set train.dtype=bfloat16 --set "train.lr=$1" --set "train.seed=$2" \
      --set "federated.aggregator=$name" --set federated.eval_every=10 --set "train.threads=${THREADS:-1}" \
      --set "output.dir=$directory/runs/$name/lr-$1-seed-$2" --set output.tensorboard=false --resume
  }
  for name in ${METHODS:+${METHODS//,/ }} $([ -n "${METHODS:-}" ] || echo "${aggregators[@]}"); do
    low=3 high=5
    while true; do
      for ((rate = low; rate <= high; rate++)); do federate "${rates[rate]}" 1; done
      best=$(for ((rate = low; rate <= high; rate++)); do
        rate=$rate perl -MJSON::PP -0777 -ne 'printf "%.6f %d\n", decode_json($_)->{last}{accuracy}, $ENV{rate}' \
          "$directory/runs/$name/lr-${rates[rate]}-seed-1/metrics.json"
      done | sort -k1,1nr -k2,2n | head -n 1 | cut -d ' ' -f 2)
      if [ "$best" = "$low" ] && [ "$low" -gt 0 ]; then low=$((low - 1))
      elif [ "$best" = "$high" ] && [ "$high" -lt 7 ]; then high=$((high + 1))
      else break; fi
    done
    for seed in 2 3 4 5; do federate "${rates[best]}" "$seed"; done
    runs=
    for seed in 1 2 3 4 5; do
      runs+="{\"method\": \"$name\", \"lr\": ${rates[best]}, \"seed\": $seed, \"name\": \"$name/lr-${rates[best]}-seed-$seed\"},"
    done
    rows+="{\"method\": \"$name\", \"runs\": [${runs%,}]},"
  done
  echo "{\"rows\": [${rows%,}]}" > "$output/$study.json"
}

run_study() {
  local study=$1 base task kind directory recipe
  studies | grep -x -- "$study" > /dev/null || fail "no study \`$study\`; there are $(studies | paste -sd ' ')"
  IFS=- read -r base task kind <<< "$study"
  directory=$output/$base-$task
  recipe=recipes/evidence.yaml
  settings=()
  add_base "$base"
  add_task "$task"
  if [ "$kind" = aggregators ]; then
    run_aggregators "$directory" "$study"
    return
  fi
  add_rows "$kind"
  if [ "$kind" = parameters ]; then settings+=(--mode equal-parameters); fi
  case $kind in parameters | long | head) directory=$output/$study ;; esac  # other runs under the same names
  "$program" compare "$recipe" "${settings[@]}" --output "$directory" --threads "${THREADS:-1}" --resume
  cp "$directory/compare.json" "$output/$study.json"
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
