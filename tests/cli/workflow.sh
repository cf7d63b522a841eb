# From a recipe to a merged model: every command on the way, and numbers that must agree between them.
. "$(dirname "$0")/lib.sh"

recipe | sed "s/epochs: 4/epochs: 6/" > recipe.yaml
expect 0 "no problem found" "negative, positive" "3,328" -- "$MSPLORA" validate recipe.yaml
expect 0 '"valid": true' -- "$MSPLORA" validate recipe.yaml --json
expect 0 "train.tsv:2" "[CLS] the" "lengths in tokens" "positive" -- "$MSPLORA" data preview recipe.yaml
expect 0 '"lengths"' '"part": "test"' -- "$MSPLORA" data preview recipe.yaml --part test --json

expect 0 "msplora, 3 levels, ranks 8 4 2" "6 layers: query [32, 32] x 3, value [32, 32] x 3" "fresh" \
  "adapter" "run/metrics.json" -- "$MSPLORA" train recipe.yaml
for file in recipe.yaml metrics.json metrics.jsonl adapter/adapter_config.json adapter/adapter_model.safetensors \
  adapter/task.json adapter-native/adapter.json adapter-native/adapter.safetensors; do
  [ -s "run/$file" ] || fail "train did not write $file"
done
accuracy=$(sed -n '/"test"/,/}/p' run/metrics.json | json_number /dev/stdin accuracy)
perl -e 'exit($ARGV[0] > 0.9 ? 0 : 1)' "$accuracy" || fail "test accuracy $accuracy on separable data"

# The resolved recipe gives the same run again, bit for bit.
expect 0 -- "$MSPLORA" train run/recipe.yaml --set output.dir=run2
cmp run/adapter/adapter_model.safetensors run2/adapter/adapter_model.safetensors
cmp run/adapter-native/adapter.safetensors run2/adapter-native/adapter.safetensors

# eval agrees with what train reported, in both forms of the adapter.
for form in adapter adapter-native; do
  expect 0 "\"accuracy\": $accuracy" -- \
    "$MSPLORA" eval --model "$model" --adapter run/$form --data "$data/test.tsv" --json
done

# Another number in config.json makes another base of the same weights.
cp -r "$model" changed
perl -0777 -pi -e 's/"layer_norm_eps": [^,\s]*,/"layer_norm_eps": 0.1,/ or s/\{/{"layer_norm_eps": 0.1,/' changed/config.json
expect 1 "a base that computes otherwise: norm_eps:" "0.1 here" -- \
  "$MSPLORA" eval --model changed --adapter run/adapter-native --data "$data/test.tsv"
# Keys of other names are named, with the option that would have chosen one.
printf '{"review": "the film", "stars": "positive"}\n' > keys.jsonl
expect 1 "keys.jsonl:1: no key \`sentence\` (data.text); found 2 keys: \`review\`, \`stars\`" "--text of eval" -- \
  "$MSPLORA" eval --model "$model" --adapter run/adapter --data keys.jsonl
expect 0 "accuracy" -- "$MSPLORA" eval --model "$model" --adapter run/adapter --data keys.jsonl --text review --label stars

# predict: names of the classes, order of the input, streaming from standard input.
cut -f 1 "$data/test.tsv" | tail -n +2 > lines.txt
expect 0 -- "$MSPLORA" predict --model "$model" --adapter run/adapter --data "$data/test.tsv" --output tsv.out
"$MSPLORA" predict --model "$model" --adapter run/adapter < lines.txt > lines.out
cmp tsv.out lines.out
[ "$(wc -l < lines.out)" = 65 ] || fail "expected a header and 64 predictions"
right=$(paste <(tail -n +2 lines.out | cut -f 1) <(tail -n +2 "$data/test.tsv" | cut -f 2) | awk '$1 == $2' | wc -l)
perl -e 'exit(abs($ARGV[0] / 64 - $ARGV[1]) < 1e-9 ? 0 : 1)' "$right" "$accuracy" || fail "predictions and accuracy differ"
expect 0 '"probabilities"' -- "$MSPLORA" predict --model "$model" --adapter run/adapter --data lines.txt --json

# merge: a model directory of its own that says the same without the adapter.
expect 0 "merged 6 layers" "largest logit difference" "(float32)" -- \
  "$MSPLORA" merge --model "$model" --adapter run/adapter-native --output merged
for file in config.json model.safetensors tokenizer.json; do
  [ -s merged/$file ] || fail "merge did not write $file"
done
grep -q '"positive"' merged/config.json || fail "config.json has no class names"
expect 0 "\"accuracy\": $accuracy" -- "$MSPLORA" eval --model merged --data "$data/test.tsv" --json
expect 0 -- "$MSPLORA" predict --model merged --data "$data/test.tsv" --output merged.tsv
cut -f 1 merged.tsv > classes.out
cut -f 1 lines.out | cmp - classes.out
"$MSPLORA" predict --model merged < lines.txt | cut -f 1 > merged.out
cut -f 1 lines.out | cmp - merged.out
# The length of the training too: behind it a text may say what it wants.
sed -i 's/"max_length": [0-9]*/"max_length": 5/' merged/task.json
perl -e 'print "the film was lovely", " awful" x 8, "\nthe film was lovely", " dull" x 8, "\n"' > long.txt
"$MSPLORA" predict --model merged < long.txt 2> cut.txt | tail -n +2 | uniq -c | grep -q "^ *2 " ||
  fail "predict does not cut the text as the task.json of the merged model says"
grep -q "longer than 5 tokens" cut.txt || fail "not a word about the cut"
sed -i 's/"1": "positive"/"1": "positive", "2": "mixed"/' merged/task.json
expect 1 "merged/task.json: names 3 classes, the head has 2 outputs" -- "$MSPLORA" predict --model merged --data long.txt

# What merging lost is read off the files: rounding of a model that was trained whole counts too.
expect 0 -- "$MSPLORA" train recipe.yaml --set adapter.method=full --set output.dir=whole --set train.epochs=1 \
  --set output.save_peft=false
expect 0 -- "$MSPLORA" merge --model "$model" --adapter whole/adapter-native --output whole16 --save-dtype bfloat16 --json
difference=$(json_number out.txt largest_logit_difference)
perl -e 'exit($ARGV[0] > 1e-4 ? 0 : 1)' "$difference" || fail "bfloat16 files differ by $difference only"

# export: native to PEFT is what train wrote; PEFT is read back as LoRA.
expect 0 -- "$MSPLORA" export --model "$model" --adapter run/adapter-native --to peft --output peft
cmp peft/adapter_model.safetensors run/adapter/adapter_model.safetensors
expect 0 "method lora" -- "$MSPLORA" export --model "$model" --adapter run/adapter --to native --output native
"$MSPLORA" predict --model "$model" --adapter native < lines.txt | cut -f 1 | cmp - merged.out

# The other methods, and one table over all runs.
expect 0 "lora, rank 8" -- "$MSPLORA" train recipe.yaml --set adapter.method=lora --set output.dir=lora
expect 0 "no PEFT adapter is written" -- "$MSPLORA" train recipe.yaml --set adapter.method=none --set output.dir=head
expect 0 "| msplora |" "| lora    |" "| none    |" "accuracy (test)" "run/adapter" "head/adapter-native" "3,328" -- \
  "$MSPLORA" results run lora head
expect 0 '"adapter_parameters": 3328' -- "$MSPLORA" results run --json
expect 0 "accuracy" -- "$MSPLORA" eval --model "$model" --adapter head/adapter-native --data "$data/test.tsv"

# bfloat16, a token budget, machine-readable output.
expect 0 '"dtype": "bfloat16"' -- "$MSPLORA" train recipe.yaml --json --set train.dtype=bfloat16 \
  --set train.batch_size=null --set train.token_budget=256 --set output.dir=bf16 --set train.epochs=1

# tokenize: there and back.
echo "the film was lovely" | "$MSPLORA" tokenize --model "$model" --ids > ids.txt
[ "$("$MSPLORA" tokenize --model "$model" --decode < ids.txt)" = "the film was lovely" ] || fail "decode(encode) differs"
printf 'the film\tlovely\n' > pair.txt
expect 0 '"type_ids":[0,' ',1]' -- "$MSPLORA" tokenize --model "$model" --pair --json pair.txt
expect 1 "text.txt:1: --pair: expected two texts with one tab between them, found 0 tabs" -- "$MSPLORA" tokenize --model "$model" --pair "$data/text.txt"
expect 0 '"offsets":[[0,0],[0,' -- "$MSPLORA" tokenize --model "$model" --pair --offsets characters --json pair.txt
echo "the film was lovely" > line.txt
expect 0 '"line":1' -- "$MSPLORA" tokenize --model "$model" --max-length 4 --stride 1 --json line.txt
[ "$(wc -l < out.txt)" -gt 1 ] || fail "no windows"
expect 2 "--max-length" -- "$MSPLORA" tokenize --model "$model" --stride 1 pair.txt
expect 0 "MB/s" -- "$MSPLORA" tokenize --model "$model" --bench "$data/text.txt"
