# Wrong command lines and recipes: exit code 2 and one message with everything that is wrong.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
expect 0 "train" "predict" "inspect" -- "$MSPLORA" --help
expect 0 "RECIPE.yaml" "--set" "--resume" "adapter.rank = 8" "Peak learning rate" -- "$MSPLORA" train --help
expect 0 "msplora 0." -- "$MSPLORA" --version
expect 2 "msplora: error:" -- "$MSPLORA"
expect 2 "MSPLORA_ISA" "'sse9'" "it runs portable" -- env MSPLORA_ISA=sse9 "$MSPLORA" inspect --shape roberta-base
expect 2 "did you mean \`train\`?" -- "$MSPLORA" trian recipe.yaml
expect 2 "did you mean \`--adapter\`?" -- "$MSPLORA" eval --model m --adaptor a --data d
expect 2 "msplora: error:" -- "$MSPLORA" train
expect 2 "expected cpu, cuda or cuda:N" -- "$MSPLORA" train recipe.yaml --device tpu
expect 1 "nowhere.yaml" -- "$MSPLORA" train nowhere.yaml
expect 2 "inspect" "--shape" -- "$MSPLORA" inspect
expect 2 "did you mean \`roberta-base\`?" -- "$MSPLORA" inspect --shape roberta-bas

cat > wrong.yaml << 'YAML'
model: {path: somewhere}
adapter:
  rnak: 8
  levels: three
  dropout: 1.5
train:
  schedule: linaer
  target_modules: [query]
YAML
expect 2 "wrong.yaml:3: adapter.rnak" "did you mean \`rank\`?" "wrong.yaml:4: adapter.levels" "expected an integer" \
  "wrong.yaml:5: adapter.dropout" "wrong.yaml:7: train.schedule" "did you mean \`linear\`?" \
  "did you mean \`adapter.target_modules\`?" "5 problems" -- "$MSPLORA" train wrong.yaml
expect 2 "--set train.lrr: unknown key (did you mean \`lr\`?)" -- "$MSPLORA" train recipe.yaml --set train.lrr=1
expect 2 "expected KEY=VALUE" -- "$MSPLORA" train recipe.yaml --set train.lr
expect 2 "train.seed" "of at most 9223372036854775807" -- "$MSPLORA" train recipe.yaml --set train.seed=9223372036854775808
expect 2 "of at least -9223372036854775808" -- "$MSPLORA" train recipe.yaml --set train.seed=-1e30
expect 2 "expected a model directory, found a file" -- "$MSPLORA" validate recipe.yaml --set model.path=recipe.yaml
expect 2 "train.device" -- "$MSPLORA" validate recipe.yaml --set train.device=gpu
[ "$(grep -c "train.device" both.txt)" = 1 ] || fail "one problem is listed twice"
expect 2 "train.lr" "above 0" -- "$MSPLORA" train recipe.yaml --set train.lr=-1
expect 2 "token_budget" "batch_size" -- "$MSPLORA" train recipe.yaml --set train.token_budget=64
expect 2 "adapter.method" "did you mean \`msplora\`?" -- "$MSPLORA" train recipe.yaml --set adapter.method=mslora
printf 'model: {path: x\ntrain:\n' > syntax.yaml
expect 2 "syntax.yaml:" "not valid YAML" -- "$MSPLORA" validate syntax.yaml
expect 2 '"kind": "config"' -- "$MSPLORA" train recipe.yaml --set train.lr=-1 --json
expect 1 "metrics.json" -- "$MSPLORA" results "$data"
# validate and train refuse the same, with the same code, and leave nothing.
refused=(train.best_metric=macro_f1 train.device=cuda:9 "adapter.stagewise=true train.max_steps=2")
for sets in "${refused[@]}"; do
  options=()
  for set in $sets; do options+=(--set "$set"); done
  for command in validate train; do
    expect 2 "${sets%%=*}" -- "$MSPLORA" $command recipe.yaml "${options[@]}"
    [ ! -e run ] || fail "$command left a directory for $sets"
  done
done
recipe | sed 's/ validation: [^,]*,//' > unwatched.yaml
for command in validate train; do
  expect 2 "train.early_stopping_patience" "validation" -- \
    "$MSPLORA" $command unwatched.yaml --set train.early_stopping_patience=2
  [ ! -e run ] || fail "$command left a directory"
done
expect 2 "there is no command" -- "$MSPLORA" finetune --help
expect 2 "msplora bench step --help" -- "$MSPLORA" bench step --zzzzzzzzzzzz
mkdir full && touch full/file
expect 0 "no problem found" "not empty" -- "$MSPLORA" validate recipe.yaml --set output.dir=full
expect 2 "not empty" -- "$MSPLORA" train recipe.yaml --set output.dir=full
expect 0 "float32" -- "$MSPLORA" train recipe.yaml --set train.dtype=FP32 --set train.max_steps=2 --set output.dir=typed
expect 0 -- "$MSPLORA" train recipe.yaml --set train.max_steps=2 --set train.log_every=1 --set output.dir=lines --log-format json
expect_json_lines err.txt
# With --json what a command tells goes there too: the lines before training, those of the runs, errors of any kind.
for command in "train recipe.yaml" "compare recipe.yaml --methods lora --seeds 1 --set train.seed=42" \
  "federate recipe.yaml --set federated.rounds=1 --set federated.clients=2 --set adapter.method=lora"; do
  expect 0 '"message"' -- "$MSPLORA" $command --set train.max_steps=2 --set output.dir=told --overwrite --json --log-format json
  expect_json_lines err.txt
  grep -q "msplora\|\[1/1\]" err.txt || fail "nothing is told: $command"
done
for command in "train recipe.yaml --zzz" "train recipe.yaml --set train.lr=-1" "trian"; do
  expect 2 -- "$MSPLORA" $command --json --debug --log-format=json
  expect_json_lines err.txt
done

# No command writes over what it reads.
cp -r "$model" precious && mkdir holder && ln -s ../precious holder/model
for command in train federate compare pretrain "validate" "validate --compare" "validate --pretrain"; do
  file=recipe.yaml
  [[ $command != *pretrain* ]] || file=$data/pretrain.yaml
  expect 2 "output.dir: precious is read by this command too" -- \
    "$MSPLORA" $command $file --set model.path=precious --set output.dir=precious --overwrite
  expect 2 "output.dir: precious, which is read, lies in ." -- \
    "$MSPLORA" $command $file --set model.path=precious --set output.dir=. --overwrite
  expect 2 "output.dir: holder/model is the same as precious" -- \
    "$MSPLORA" $command $file --set model.path=precious --set output.dir=holder --overwrite
done
diff -r "$model" precious || fail "a refused command changed the model"
expect 2 "precious/tokenizer.json is read by this command too" -- \
  "$MSPLORA" tokenize --train --vocab-size 160 precious/tokenizer.json --output precious --overwrite
grep -q '"time":"20' lines/metrics.jsonl || fail "no time in metrics.jsonl"

# Under a limit on address space that is too small for its libraries, the program says so before they hang.
# Where not even they fit (libtorch with CUDA), the loader has said so already.
bash -c 'ulimit -v 600000; exec "$MSPLORA" --version' > loaded.txt 2>&1 || true
if ! grep -q "failed to map segment from shared object" loaded.txt; then
  expect 1 "ulimit -v" -- bash -c 'ulimit -v 600000; exec "$MSPLORA" --version'
fi
# Waiting threads sleep, whatever else is in the environment; the user's choice stands.
for environment in "-i" "-i PWD=/" ""; do
  env $environment OMP_DISPLAY_ENV=verbose "$MSPLORA" --version > out.txt 2>&1 || fail "env $environment"
  grep -q "GOMP_SPINCOUNT = '1000'" out.txt || { cat out.txt >&2; fail "threads spin under env $environment"; }
done
OMP_WAIT_POLICY=active OMP_DISPLAY_ENV=verbose "$MSPLORA" --version > out.txt 2>&1
! grep -q "GOMP_SPINCOUNT = '1000'" out.txt || fail "the user's wait policy was replaced"

[ ! -e run ] || fail "a refused run left its directory"

# A recipe of another command is known by its section.
{ sed "s/seed: 7, //" recipe.yaml; printf 'compare: {methods: [lora], seeds: 1}\n'; } > compared.yaml
expect 2 "compared.yaml: is a recipe of \`compare\`" "msplora compare compared.yaml" -- "$MSPLORA" train compared.yaml
expect 0 "compared.yaml: no problem found" -- "$MSPLORA" validate compared.yaml
{ cat recipe.yaml; printf 'compare: {methods: [loar]}\n'; } > miswritten.yaml
expect 2 "did you mean \`lora\`?" -- "$MSPLORA" validate miswritten.yaml
