# Several methods and seeds in one table; killed and continued, it is the table of the uninterrupted comparison.
. "$(dirname "$0")/lib.sh"

recipe | sed 's/seed: 7, //' > recipe.yaml
compare() { "$MSPLORA" compare recipe.yaml --set train.max_steps=5 --set train.log_every=100 "$@"; }
grid=(--methods lora,msplora,none --seeds 2 --lr-grid 1e-2,1e-4)
# Without times and memory, which are columns 14 to 16.
numbers() { cut -d , -f 1-13,18 "$1/compare.csv"; }

expect 2 "compare.methods" "did you mean \`lora\`?" -- compare --methods lroa,none --output refused
expect 2 "method lora" "method msplora" "rank 99 is larger" -- compare --methods lora,msplora --set adapter.rank=99 --output refused
expect 2 "compare.lr_grd" "did you mean" -- compare --set compare.lr_grd=[1] --output refused
expect 2 "train.seed" "compare.seeds says how many" -- compare --set train.seed=7 --output refused
[ ! -e refused ] || fail "a refused comparison left its directory"

expect 0 "[1/9] lora/lr-0.0001-seed-1: accuracy" "[9/9] none/" "equal-rank, 2 seeds" "0.0001, 0.01" \
  "accuracy (test)" "| lora " "| msplora " "| none " "108.3 %" "Differences from lora" "outermost of those tried" "whole/compare.{md,csv,tex,svg,json}" -- compare "${grid[@]}" --output whole
[ "$(wc -l < whole/compare.csv)" = 4 ] || fail "expected a header and three rows"
[ "$(wc -l < whole/compare-runs.csv)" = 10 ] || fail "expected a header and nine runs"
grep -q "toprule" whole/compare.tex || fail "no table of LaTeX"
[ "$(find whole/runs -name test.csv | wc -l)" = 9 ] || fail "expected what each run said of the test data"
[ "$(find whole/runs -name metrics.json | wc -l)" = 9 ] || fail "expected nine runs"
for method in lora msplora none; do
  row=$(grep "^$method," whole/compare.csv)
  perl -e '
    my ($method, $rank, $parameters, $share, $trained, $lr, $metric, $on, $mean, $deviation, $validation, $runs, $failed,
        $seconds, $cpu, $speed, $memory, $bytes) = split /,/, $ARGV[0], -1;
    exit 1 unless $runs == 2 && $failed == 0 && $metric eq "accuracy" && $on eq "test";
    exit 2 unless $mean > 0 && $mean <= 1 && $deviation ne "" && $validation ne "";
    exit 3 unless $trained > $parameters && $seconds > 0 && $cpu > 0 && $speed > 0 && $memory > 1e7 && $bytes > 4 * $trained;
    exit 4 unless $lr == 0.01 || $lr == 0.0001;
    exit 5 if ($method eq "none") != ($rank eq "");
  ' "$row" || fail "a row of the table is wrong ($?): $row"
done
# The tables can be made again from what is left.
"$MSPLORA" results whole > again.md
cmp again.md whole/compare.md
"$MSPLORA" results whole --svg > again.svg
cmp again.svg whole/compare.svg
for text in 'xmlns=' '>lora</text>' '>msplora</text>' '>none</text>' 'accuracy by parameters, equal-rank, 2 seeds'; do
  grep -qF -- "$text" whole/compare.svg || fail "expected \`$text\` in the picture"
done
expect 2 "shown alone" -- "$MSPLORA" results whole whole/runs/lora/lr-0.01-seed-1
# What the runs said of the test data is what they were scored by.
perl -MJSON::PP -e '
  use strict;
  for my $run (glob("whole/runs/*/*")) {
    open(my $in, "<", "$run/test.csv") or exit 1;
    my ($right, $all) = (0, 0);
    while (<$in>) { chomp; my ($part, $said, $true) = split /,/; next if $part eq "part"; $all++; $right += $said == $true; }
    open(my $json, "<", "$run/metrics.json") or exit 2;
    my $score = decode_json(join("", <$json>))->{test}{accuracy};
    exit 3 unless $all > 0 && abs($right / $all - $score) < 1e-9;
  }
' || fail "test.csv and metrics.json disagree ($?)"
# The rate is the one with the better validation score of seed 1.
perl -0777 -e '
  use strict; use JSON::PP;
  my $all = decode_json(<STDIN>);
  for my $row (@{$all->{rows}}) {
    my @grid = grep { $_->{method} eq $row->{method} } @{$all->{grid}};
    my ($best) = sort { $b->{validation} <=> $a->{validation} || $a->{lr} <=> $b->{lr} } @grid;
    exit 1 if @grid != 2 || $row->{lr} != $best->{lr} || $row->{runs}[0]{name} ne $best->{name};
  }
' < whole/compare.json || fail "the rate is not the best of the validation scores"

# Not empty: refused; finished: nothing runs again.
expect 2 "not empty" "--resume" -- compare "${grid[@]}" --output whole
cp whole/compare.csv before.csv
expect 0 "[9/9]" -- compare "${grid[@]}" --output whole --resume
cmp before.csv whole/compare.csv
expect 2 "made with other options" "adapter.alpha" -- compare "${grid[@]}" --output whole --resume --set adapter.alpha=3

# Ranks that a run has settled by itself are no other options.
settled=(--methods gelora --lr-grid 1e-2 --seeds 1 --set train.max_steps=2 --output settled)
expect 0 "[1/1]" -- compare "${settled[@]}"
grep -q "layer_ranks: \[[0-9]" settled/runs/gelora/*/recipe.yaml || fail "no ranks are recorded"
expect 0 "[1/1]" -- compare "${settled[@]}" --resume

# What a search found at the end is what its rate is chosen by.
searched=(--methods glora --lr-grid 1e-2 --seeds 1 --set train.best_metric=loss --set adapter.glora.population=2
  --set adapter.glora.parents=2 --set adapter.glora.generations=0 --output searched)
expect 0 "[1/1]" -- compare "${searched[@]}"
perl -MJSON::PP -0777 -e '
  my ($table, $run) = map { open(my $in, "<", $_) or die "$_: $!"; decode_json(<$in>) } @ARGV;
  my ($chosen_by, $found) = ($table->{rows}[0]{runs}[0]{validation}, $run->{search}{evaluation}{loss});
  die "the supernet and what was found have one loss\n" if $found == $run->{best}{loss};
  die "the validation loss is $chosen_by, the search found $found\n" if abs($chosen_by - $found) > 1e-9;
' searched/compare.json searched/runs/glora/*/metrics.json >&2 || fail "the validation score is not that of the search"

# Killed in the middle and continued.
(exec "$MSPLORA" compare recipe.yaml --set train.max_steps=5 --set train.log_every=100 "${grid[@]}" --output killed) \
  > killed.txt 2>&1 &
pid=$!
while [ "$(find killed/runs -name metrics.json 2> /dev/null | wc -l)" -lt 4 ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
kill -9 $pid 2> /dev/null || fail "the comparison ended before it could be killed"
wait $pid || true
[ "$(find killed/runs -name metrics.json | wc -l)" -lt 9 ] || fail "killed too late"
expect 0 "[9/9]" -- compare "${grid[@]}" --output killed --resume
diff <(numbers whole) <(numbers killed) || { grep -h "error:" killed/runs/*/*/train.log >&2; fail "the continued comparison differs"; }

# Ctrl-C: news, not an error, and nothing is lost.
# Background jobs of a script ignore SIGINT; perl gives it back.
perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "$MSPLORA" compare recipe.yaml --set train.log_every=100 --methods lora --seeds 1 \
  --set train.max_steps=4000 --output stopped > stopped.txt 2>&1 &
pid=$!
while [ ! -s stopped/runs/lora/lr-0.01-seed-1/metrics.jsonl ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
kill -INT $pid
status=0
wait $pid || status=$?
[ $status = 130 ] || { cat stopped.txt >&2; fail "expected exit code 130, got $status"; }
ls -d stopped/runs/lora/lr-0.01-seed-1/checkpoint-* > /dev/null || fail "the run in progress saved nothing"

# The rank with the nearest number of parameters: 6144 of lora, 5760 (rank 15) or 6656 (rank 16) of msplora.
expect 0 "equal-parameters" "93.8 %" -- compare --methods lora,msplora --seeds 1 --mode equal-parameters \
  --set adapter.rank=16 --output equal
grep -q "^msplora,15,5760,0.9375," equal/compare.csv || { cat equal/compare.csv >&2; fail "not the nearest rank"; }
grep -q "^lora,16,6144,1," equal/compare.csv || fail "the reference must keep its rank"

# A run that fails costs its own entry.
expect 0 "failed" "the loss is" "train.log" "0, 1 failed" "| lora " -- compare --methods lora,none --seeds 1 --output partly \
  --set 'compare.settings={none: [train.lr=1.0e+30]}'
grep -q "^lora,.*,1,0," partly/compare.csv || fail "the other method was lost"
expect 1 "every run failed" -- compare --methods none --seeds 1 --output none --set 'compare.settings={none: [train.lr=1.0e+30]}'
expect 0 '"measured_on": "test"' '"rows"' -- compare --methods full,bitfit --seeds 1 --json --output base \
  --set 'compare.settings={full: [train.lr=1e-3]}'

# What failed alike is told once, and is no row of the tests; what failed has no further seeds.
expect 0 "[6/6]" "adjusted for 1 row by Holm" "| broken " "runs/broken/lr-0.01-seed-1/train.log" -- compare --methods lora,none,broken --seeds 2 --output alike \
  --lr-grid 1e-2 --set 'compare.variants={broken: [adapter.method=lora, data.text=nowhere]}'
[ "$(grep -c nowhere out.txt)" = 1 ] || { cat out.txt >&2; fail "one reason of two runs must be told once"; }
# Nothing to measure by: said, not left out.
expect 0 "no differences from vera: it is not among compare.methods" -- compare --methods lora,none --seeds 1 --reference vera \
  --output no-reference
# More parameters than any rank of lora has.
expect 0 "No rank of lora has a number of parameters within 10 %" -- compare --methods lora,vera --seeds 1 --reference vera \
  --mode equal-parameters --set adapter.rank=20000 --set train.max_steps=1 --output far

# What runs warn of stands below the table, with the runs that said it, and in compare.json.
expect 0 "Warnings:" "- xgblora: 2 of 24 rounds fall into the 5 steps" "(xgblora/lr-0.01-seed-1, xgblora/lr-0.01-seed-2)" -- \
  compare --methods xgblora,lora --seeds 2 --output warned
[ "$(grep -c "^- xgblora: 2 of 24" warned/compare.md)" = 1 ] || fail "a warning must stand below the table once"
perl -0777 -e '
  use strict; use JSON::PP;
  for my $row (@{decode_json(<STDIN>)->{rows}}) {
    for my $run (@{$row->{runs}}) {
      my @warnings = @{$run->{warnings} || []};
      exit 1 if (@warnings == 1) != ($row->{method} eq "xgblora");
      exit 2 if @warnings && $warnings[0] !~ /^xgblora: 2 of 24 rounds/;
    }
  }
' < warned/compare.json || fail "the warnings are not in compare.json"
