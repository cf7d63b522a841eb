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
expect 2 "train.lr" "above 0" -- "$MSPLORA" train recipe.yaml --set train.lr=-1
expect 2 "token_budget" "batch_size" -- "$MSPLORA" train recipe.yaml --set train.token_budget=64
expect 2 "adapter.method" "did you mean \`msplora\`?" -- "$MSPLORA" train recipe.yaml --set adapter.method=mslora
printf 'model: {path: x\ntrain:\n' > syntax.yaml
expect 2 "syntax.yaml:" "not valid YAML" -- "$MSPLORA" validate syntax.yaml
expect 2 '"kind": "config"' -- "$MSPLORA" train recipe.yaml --set train.lr=-1 --json
expect 1 "metrics.json" -- "$MSPLORA" results "$data"
[ ! -e run ] || fail "a refused run left its directory"
