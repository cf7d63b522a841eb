# Federated fine-tuning from a recipe: every aggregator, pause and resume, adapters that others read, errors.
. "$(dirname "$0")/lib.sh"

cat > recipe.yaml << YAML
model: {path: $model}
data: {train: $data/train.tsv, validation: $data/dev.tsv, test: $data/test.tsv, text: sentence, label: label, max_length: 32}
adapter: {method: lora, rank: 4, alpha: 6, target_modules: [query, value]}
train: {epochs: 1, batch_size: 16, lr: 2.0e-2, seed: 7, threads: 1}
output: {dir: run, tensorboard: false}
federated:
  clients: 4
  rounds: 4
  aggregator: lora_fair
  partition: {kind: dirichlet, alpha: 0.5, min_size: 15}
YAML

expect 0 "recipe.yaml: no problem found" -- "$MSPLORA" validate --federate recipe.yaml
expect 0 "dirichlet 0.5" "effective classes" "round 4/4" "aggregation error" "adapter-native" -- "$MSPLORA" federate recipe.yaml
[ "$(wc -l < run/rounds.jsonl)" = 4 ] || fail "rounds.jsonl does not have four lines"
for key in '"error"' '"cosine"' '"layers"' '"framing"' '"cumulative_up"' '"worst"' '"spread"'; do
  grep -qF "$key" run/rounds.jsonl || fail "$key is missing in rounds.jsonl"
done

# The adapter is one like any other, and gives the score that the run reports.
expect 0 -- "$MSPLORA" eval --model "$model" --adapter run/adapter --json --data "$data/test.tsv"
found=$(json_number out.txt accuracy)
wanted=$(perl -0ne 'print $1 if /"test":\s*\{[^}]*"accuracy":\s*([0-9.e-]+)/' run/metrics.json)
perl -e 'exit(abs($ARGV[0] - $ARGV[1]) < 1e-6 ? 0 : 1)' "$found" "$wanted" || fail "eval gives $found, the run says $wanted"

# A paused and continued run ends with the bits of the uninterrupted one.
expect 0 "paused after round 2 of 4" -- "$MSPLORA" federate recipe.yaml --set output.dir=half --set federated.stop_at=2
[ ! -e half/adapter ] || fail "a paused run left an adapter"
expect 0 "resumed after round 2" -- "$MSPLORA" federate recipe.yaml --set output.dir=half --resume
cmp run/adapter/adapter_model.safetensors half/adapter/adapter_model.safetensors
expect 2 "train.lr" "differs" -- "$MSPLORA" federate recipe.yaml --set output.dir=half --set train.lr=1e-4 --resume

for aggregator in fedit ffa flora flexlora fedex; do
  expect 0 "$aggregator" -- "$MSPLORA" federate recipe.yaml --set output.dir=$aggregator \
    --set federated.aggregator=$aggregator --set federated.rounds=2 --set federated.fraction=0.5 --json
  grep -qF '"payload"' out.txt || fail "no byte counts in the summary of $aggregator"
  expect 0 "accuracy" -- "$MSPLORA" eval --model "$model" --adapter $aggregator/adapter --data "$data/test.tsv"
done
expect 0 "lora (flora)" "lora (ffa)" -- "$MSPLORA" results flora ffa
expect 0 -- "$MSPLORA" federate recipe.yaml --set output.dir=mixed --set federated.aggregator=flexlora \
  --set federated.rounds=1 --set 'federated.client_ranks=[8,4,2,2]'
expect 0 "levels" -- "$MSPLORA" federate recipe.yaml --set output.dir=pyramid --set federated.aggregator=fedit \
  --set adapter.method=msplora --set federated.rounds=1

# Clients by a column of the data.
perl -ne 'chomp; print $_, "\t", $. == 1 ? "site" : "site " . $. % 3, "\n"' "$data/train.tsv" > sites.tsv
groups=(--set data.train=sites.tsv --set data.group=site --set federated.partition.kind=groups --set federated.partition.min_size=10 --set federated.rounds=1)
expect 0 "3, groups" -- "$MSPLORA" federate recipe.yaml "${groups[@]}" --set output.dir=sites --set federated.clients=3
expect 2 "only 3 different values" -- "$MSPLORA" federate recipe.yaml "${groups[@]}" --set output.dir=none
[ ! -e none ] || fail "a refused run left its directory"

# All problems at once.
expect 2 "unknown key" "lamda" "stop_at" -- "$MSPLORA" federate recipe.yaml --set output.dir=none \
  --set federated.fair.lamda=1 --set federated.stop_at=-1
expect 2 "fedit" "2 ranks for 4 clients" "eval_every" -- "$MSPLORA" federate recipe.yaml --set output.dir=none \
  --set adapter.method=msplora --set 'federated.client_ranks=[4,4]' --set train.eval_every=5
expect 2 "adapter.use_dora: trains a magnitude" "federated.fair.lambda: belongs to aggregator lora_fair" "federated.partition.alpha: is for partition.kind dirichlet" -- \
  "$MSPLORA" federate recipe.yaml --set output.dir=none --set adapter.use_dora=true --set federated.aggregator=fedit \
  --set federated.fair.lambda=1 --set federated.partition.kind=iid --set federated.partition.alpha=0.1
expect 2 "max_retries" -- "$MSPLORA" federate recipe.yaml --set output.dir=none --set federated.partition.alpha=0.01 \
  --set federated.partition.min_size=60
