#!/usr/bin/env bash
# The demo of instruction tuning: a small decoder learns to answer in a format, with LoRA and with MSPLoRA, from this
# machine's apt lists. Prints what the model writes before and after, and how many lines of held-out packages are right
# to the letter. Where scripts/fetch-models.sh has brought SmolLM2, the same on it.
# Everything that it writes lies in build/demo-chat.
set -euo pipefail
cd "$(dirname "$0")/.."

program=build/release/bin/msplora
folder=build/demo-chat
if [ ! -x "$program" ]; then
  echo "demo-chat: $program is missing; run 'make build' first" >&2
  exit 1
fi

echo "== data: fields of Debian packages, and a line about each"
scripts/make-chat-data.sh "$folder/data"
rm -rf "$folder/runs"
mkdir -p "$folder/runs"
gzip -dc "$folder/data/test.jsonl.gz" | perl -ne 'print "$1}\n" if /^(.*), "completion"/' > "$folder/prompts.jsonl"

# score NAME MODEL [ADAPTER]: the share of held-out packages whose line is right, and the first three.
score() {
  local adapter=()
  if [ -n "${3:-}" ]; then adapter=(--adapter "$3"); fi
  "$program" generate --model "$2" "${adapter[@]}" --prompts "$folder/prompts.jsonl" --max-new-tokens 24 \
    --greedy --json > "$folder/texts-$1.jsonl" 2> /dev/null
  perl -e '
    use strict; use warnings;
    my ($name, $rows, $texts) = @ARGV;
    open(my $wanted, "-|", "gzip", "-dc", $rows) or die; open(my $written, "<", $texts) or die;
    my ($right, $all, @shown) = (0, 0);
    while (my $row = <$wanted>) {
      my ($expected) = $row =~ /"completion": "(.*)"\}$/;
      my ($text) = <$written> =~ /"text": ?"((?:[^"\\]|\\.)*)"/;
      $all++;
      $right++ if $text eq $expected;
      push @shown, "    wanted   $expected\n    written  $text\n" if @shown < 3;
    }
    printf "  %-8s %5.1f %% of %d held-out lines right\n", $name, 100 * $right / $all, $all;
    print @shown;' "$1" "$folder/data/test.jsonl.gz" "$folder/texts-$1.jsonl"
}

# demo NAME MODEL [SETTINGS]: before, LoRA, MSPLoRA.
demo() {
  local name=$1 model=$2
  shift 2
  echo "== $name: before"
  score "$name-base" "$model"
  for method in lora msplora; do
    echo "== $name: $method"
    "$program" train recipes/demo-chat.yaml --set "model.path=$model" --set "adapter.method=$method" \
      --set "output.dir=$folder/runs/$name-$method" "$@"
    score "$name-$method" "$model" "$folder/runs/$name-$method/adapter"
  done
  "$program" results "$folder/runs/$name-lora" "$folder/runs/$name-msplora"
}

demo mini models/msplora-decoder-mini
# Where fetch-models.sh puts what it brings.
for model in "${MSPLORA_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/msplora}"/SmolLM2-135M-Instruct*; do
  if [ -e "$model" ]; then
    # A model that knows language needs few rows; it is forty times as large.
    demo smollm2 "$model" --set train.max_steps=60 --set train.lr=1e-3 --set train.dtype=bfloat16
    break
  fi
done
