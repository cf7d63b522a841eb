# adapter.init_from: a run that goes on from an adapter.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml --set adapter.method=lora --set adapter.rank=3 --set adapter.target_modules=[key] \
  --set train.max_steps=6 --set output.dir=first
# What a recipe needs then: no word of the adapter's own settings.
recipe | sed '/^adapter:/d' > plain.yaml
echo "adapter: {init_from: first/adapter}" >> plain.yaml
predict() { # RUN
  "$MSPLORA" predict --model "$model" --adapter "$1/adapter" --data "$data/test.tsv"
}

expect 0 "no problem found" "lora, rank 3" -- "$MSPLORA" validate plain.yaml
expect 0 "lora, rank 3" "the adapter in first/adapter, trained on" "key" -- "$MSPLORA" train plain.yaml \
  --set output.dir=second --set train.lr=1e-30 --set train.weight_decay=0 --set train.max_steps=2
if grep -q fresh out.txt; then fail "a head that the adapter brings is called fresh"; fi
predict first > first.out
predict second > second.out
cmp first.out second.out
expect 0 -- "$MSPLORA" train plain.yaml --set output.dir=third --set train.max_steps=8
predict third > third.out
if cmp -s first.out third.out; then fail "the run learned nothing"; fi

# The resolved recipe says it all and gives the same run; so does a run that was interrupted.
expect 0 -- "$MSPLORA" train third/recipe.yaml --set output.dir=again
cmp third/adapter/adapter_model.safetensors again/adapter/adapter_model.safetensors
expect 0 "paused" -- "$MSPLORA" train plain.yaml --set output.dir=resumed --set train.max_steps=8 --set train.stop_at=3
expect 0 -- "$MSPLORA" train plain.yaml --set output.dir=resumed --set train.max_steps=8 --resume
cmp third/adapter/adapter_model.safetensors resumed/adapter/adapter_model.safetensors
cmp third/adapter-native/adapter.safetensors resumed/adapter-native/adapter.safetensors

# A run stands for its adapter.
expect 0 "the adapter in first/adapter-native" -- "$MSPLORA" train plain.yaml --set adapter.init_from=first --set output.dir=of-run \
  --set train.max_steps=8
cmp third/adapter/adapter_model.safetensors of-run/adapter/adapter_model.safetensors
expect 2 "which is read, lies in first" -- "$MSPLORA" train plain.yaml --set adapter.init_from=first --set output.dir=first --overwrite

# The native form, on the command line, with another dropout.
expect 0 "lora, rank 3" -- "$MSPLORA" train recipe.yaml --set adapter.init_from=first/adapter-native \
  --set adapter.method=lora --set adapter.rank=3 --set adapter.alpha=16 --set adapter.target_modules=[key] \
  --set adapter.dropout=0.2 --set output.dir=native --set train.max_steps=2
grep -q "dropout: 0.2" native/recipe.yaml || fail "the dropout of the recipe is lost"

# Contradictions, all at once; what cannot be a start.
expect 2 "adapter.rank: 5, but the adapter in first/adapter has 3" 'adapter.method: "msplora"' "data.labels: the classes" \
  -- "$MSPLORA" validate plain.yaml --set adapter.rank=5 --set adapter.method=msplora --set data.labels=[positive,negative]
expect 2 "adapter.rank: 5" -- "$MSPLORA" train plain.yaml --set adapter.rank=5
expect 2 "output.dir: first/adapter, which is read, lies in first" -- "$MSPLORA" train plain.yaml --set output.dir=first --overwrite
[ -s first/adapter/adapter_config.json ] || fail "the adapter that a run was to start from is gone"
expect 2 "nowhere: no such directory" -- "$MSPLORA" validate plain.yaml --set adapter.init_from=nowhere
expect 2 "only \`train\` goes on" -- "$MSPLORA" validate plain.yaml --compare
expect 2 "--set adapter.init_from=first/adapter" -- "$MSPLORA" train plain.yaml --adapter first/adapter
sed '2,20s/\t.*/\tneutral/' "$data/train.tsv" > three.tsv
expect 2 "neutral" -- "$MSPLORA" validate plain.yaml --set data.train=three.tsv
expect 0 -- "$MSPLORA" train recipe.yaml --set adapter.method=xgblora --set adapter.levels=3 --set output.dir=rounds \
  --set train.max_steps=4
expect 2 "method xgblora cannot be trained on" -- "$MSPLORA" validate plain.yaml \
  --set adapter.init_from=rounds/adapter-native
