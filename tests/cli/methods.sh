# Methods that act through the events of training: trained, paused and resumed, evaluated in both adapter forms.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
plain=(--set adapter.rank=8 --set train.max_steps=24 --set train.batch_size=16)

train_twice() { # NAME ARGUMENTS...: uninterrupted, and paused in the middle
  local name=$1
  shift
  expect 0 "$name" -- "$MSPLORA" train recipe.yaml "${plain[@]}" "$@" --set output.dir="$name"
  expect 0 "paused" -- "$MSPLORA" train recipe.yaml "${plain[@]}" "$@" --set output.dir="$name-2" --set train.stop_at=11
  expect 0 "resumed from" -- "$MSPLORA" train recipe.yaml "${plain[@]}" "$@" --set output.dir="$name-2" --resume
  cp both.txt "$name.txt"
  cmp "$name/adapter-native/adapter.safetensors" "$name-2/adapter-native/adapter.safetensors"
  for form in adapter adapter-native; do
    expect 0 "accuracy" -- "$MSPLORA" eval --model "$model" --adapter "$name/$form" --data "$data/test.tsv"
  done
}

train_twice flatlora --set adapter.method=flatlora --set adapter.dropout=0.1
train_twice lorapro --set adapter.method=lorapro --set train.lr=2e-3
grep -qF "kept by the method" lorapro.txt || fail "no word about the size of the moments"
train_twice xgblora --set adapter.method=xgblora --set adapter.xgblora.rounds=4

gelora=(--set adapter.method=gelora --set "adapter.target_modules=[query,key,value]" --set adapter.gelora.samples=200)
expect 0 "no problem found" "at least" -- "$MSPLORA" validate recipe.yaml "${gelora[@]}"
train_twice gelora "${gelora[@]}" --set adapter.gelora.alpha_ratio=2
grep -qF "of the run that is resumed" gelora.txt || fail "a resumed run estimated its ranks again"
ranks=$(grep "layer_ranks" gelora/recipe.yaml)
[[ $ranks == *"["*[1-9]*"]"* ]] || fail "the recipe of the run does not record the ranks: $ranks"
cmp <(grep layer_ranks gelora/recipe.yaml) <(grep layer_ranks gelora-2/recipe.yaml)
expect 0 "intrinsic dimension" "layer 2" "layer_ranks" -- "$MSPLORA" inspect --profile gelora/recipe.yaml
expect 0 "\"intrinsic_dimensions\"" -- "$MSPLORA" inspect --json --profile gelora/recipe.yaml

expect 2 "adapter.xgblora.rounds" "lora" -- "$MSPLORA" train recipe.yaml --set adapter.method=lora \
  --set adapter.xgblora.rounds=3 --set output.dir=refused
