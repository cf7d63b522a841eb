#!/usr/bin/env bash
# The same clients, data and seed with every aggregator: SST-2 over ten unlike clients (recipes/federated.yaml) and one
# table at the end. Finished runs are kept, so it can be stopped and continued. Arguments after the names of the
# aggregators go to `msplora federate`, e.g. --set federated.rounds=5.
#   MSPLORA_DATA=... scripts/compare-aggregators.sh [fedit ffa flora flexlora fedex lora_fair] [--set KEY=VALUE...]
set -euo pipefail
cd "$(dirname "$0")/.."
names=()
while [ $# -gt 0 ] && [[ $1 != --* ]]; do
  names+=("$1")
  shift
done
[ ${#names[@]} -gt 0 ] || names=(fedit ffa flora flexlora fedex lora_fair)
program=${MSPLORA_PROGRAM:-build/release/bin/msplora}
out=${MSPLORA_COMPARE_DIR:-build/federated}
folder=${MSPLORA_DATA:?names the folder that holds sst2/}
for name in "${names[@]}"; do
  run=$out/$name
  [ -e "$run/metrics.json" ] && continue
  mkdir -p "$out"
  "$program" federate recipes/federated.yaml --set "data.train=$folder/sst2/train.tsv" \
    --set "data.validation=$folder/sst2/dev.tsv" --set "data.test=$folder/sst2/test.tsv" \
    --set "federated.aggregator=$name" --set "train.threads=${MSPLORA_THREADS:-0}" --set "output.dir=$run" \
    --set output.tensorboard=false "$@" --resume > "$run.log" 2>&1 || {
    tail -n 3 "$run.log" >&2
    exit 1
  }
done
echo "| aggregator | test accuracy | clients, mean | worst client | aggregation error | cosine | up, all clients | down, all clients | seconds |"
echo "|---|---|---|---|---|---|---|---|---|"
for name in "${names[@]}"; do
  perl -MJSON::PP -e '
    my ($name, $run) = @ARGV;
    local $/;
    open(my $metrics, "<", "$run/metrics.json") or die "$run: $!\n";
    my $m = decode_json(<$metrics>);
    open(my $rounds, "<", "$run/rounds.jsonl") or die "$run: $!\n";
    my @rounds = map { decode_json($_) } split /\n/, <$rounds>;
    my $last = $rounds[-1];
    my ($error, $cosine) = (0, 0);
    for my $round (@rounds) { $error += $round->{aggregation}{error}; $cosine += $round->{aggregation}{cosine}; }
    my $scores = $last->{client_scores};
    printf "| %s | %.1f %% | %.1f %% | %.1f %% | %.2g | %.4f | %.2f MB | %.2f MB | %.0f |\n", $name,
        100 * $m->{test}{accuracy}, 100 * $scores->{mean}, 100 * $scores->{worst}, $error / @rounds, $cosine / @rounds,
        $m->{bytes}{up}{total} / 1e6, $m->{bytes}{down}{total} / 1e6, $m->{seconds};
  ' "$name" "$out/$name"
done
