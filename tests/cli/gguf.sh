# A GGUF file in place of a model directory, from looking at it to a merged model.
. "$(dirname "$0")/lib.sh"

tiny=$SOURCE_DIR/tests/golden/gguf/tiny
file=$tiny/llama/q8_0.gguf
before=$(cksum "$file")

expect 0 "llama, 2 layers" "q_proj" -- "$MSPLORA" inspect --model "$file"
expect 0 "gemma3_text" -- "$MSPLORA" inspect --model "$tiny/gemma3/q8_0.gguf"
# Keys that are nonsense, or do not fit the tensors.
with_key() { perl -0777 -pe "s/(\Q$1\E.{4}).{4}/\$1 . pack('V', $2)/se" "$file" > damaged.gguf; }
with_key llama.attention.head_count_kv 0
expect 1 "llama.attention.head_count_kv: expected a positive integer, found 0" -- "$MSPLORA" inspect --model damaged.gguf
with_key llama.attention.head_count_kv 3
expect 1 "llama.attention.head_count_kv: expected a divisor of llama.attention.head_count = 4, found 3" -- "$MSPLORA" inspect --model damaged.gguf
with_key llama.feed_forward_length 1073741824
expect 1 "gate_proj.weight: expected [1073741824" -- "$MSPLORA" inspect --model damaged.gguf
printf 'hello there\n' > line.txt
for name in llama gemma3; do
  expect 0 -- "$MSPLORA" tokenize --ids --model "$tiny/$name/q8_0.gguf" line.txt
  grep -qE '[0-9]+' out.txt || fail "no ids of $name"
  expect 0 -- "$MSPLORA" generate --model "$tiny/$name/q8_0.gguf" --max-new-tokens 5 --greedy --prompt hello
done

recipe > recipe.yaml
here_on=(--set "model.path=$file" --set "adapter.target_modules=[q_proj, v_proj]")
expect 0 -- "$MSPLORA" validate recipe.yaml "${here_on[@]}"
expect 0 -- "$MSPLORA" train recipe.yaml "${here_on[@]}"
expect 0 "accuracy" -- "$MSPLORA" eval --model "$file" --adapter run/adapter --data "$data/test.tsv"
cp out.txt with_adapter.txt
expect 0 "\"base_model_name_or_path\": \"$file\"" -- cat run/adapter/adapter_config.json

# The merged model is a directory of Hugging Face's form, with a tokenizer.
expect 0 -- "$MSPLORA" merge --model "$file" --adapter run/adapter --output merged
[ -e merged/model.safetensors ] && [ -e merged/config.json ] && [ -e merged/tokenizer.json ] || fail "files of the merged model"
expect 0 "accuracy" -- "$MSPLORA" eval --model merged --data "$data/test.tsv"
diff <(grep -o 'accuracy[^,]*' with_adapter.txt) <(grep -o 'accuracy[^,]*' out.txt) || fail "the merged model scores otherwise"
expect 0 -- "$MSPLORA" tokenize --ids --model "$file" line.txt
cp out.txt ids.txt
expect 0 -- "$MSPLORA" tokenize --ids --model merged line.txt
diff ids.txt out.txt || fail "the merged model has other ids"

# Damaged files, and what is no model.
head -c 20000 "$file" > cut.gguf
expect 1 "cut.gguf" "beyond the file's end" -- "$MSPLORA" train recipe.yaml --set model.path=cut.gguf --set output.dir=out
head -c 1000 "$file" > cut.gguf
expect 1 "cut.gguf" -- "$MSPLORA" generate --model cut.gguf --prompt hello
perl -0777 -pe 's/(general\.architecture.{12})llama/$1lamma/s' "$file" > other.gguf
expect 1 "other.gguf" "\`lamma\` is not supported" "llama, qwen2" -- "$MSPLORA" inspect --model other.gguf
printf '<html>' > page.gguf
expect 1 "page.gguf" "web page" -- "$MSPLORA" tokenize --ids --model page.gguf line.txt
expect 1 "expected \`adapter\`" -- "$MSPLORA" eval --model "$file" --adapter "$file" --data "$data/test.tsv"
[ ! -e out ] || fail "a failed run left its directory"
[ "$before" = "$(cksum "$file")" ] || fail "the file has changed"
