# A decoder from nothing: a byte-level BPE vocabulary, pretraining, and what it writes.
. "$(dirname "$0")/lib.sh"

cp "$data/text.txt" .
expect 0 "with 300 tokens" -- "$MSPLORA" tokenize --train --type bpe --vocab-size 300 --output shape text.txt
expect 2 "wordpiece" -- "$MSPLORA" tokenize --train --type bpee --output other text.txt
echo "the Film's 9 was fine" | "$MSPLORA" tokenize --model shape --ids > ids.txt
"$MSPLORA" tokenize --model shape --decode ids.txt > back.txt
[ "$(cat back.txt)" = "the Film's 9 was fine" ] || fail "a text came back as $(cat back.txt)"

cat > shape/config.json << 'JSON'
{"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "num_key_value_heads": 1, "intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
 "pad_token_id": 3, "tie_word_embeddings": true, "initializer_range": 0.1}
JSON
cat > pretrain.yaml << YAML
model: {path: shape, random_init: true}
data: {train: [text.txt], validation: [text.txt], max_length: 24}
train: {max_steps: 120, batch_size: 32, lr: 5.0e-3, warmup_ratio: 0.1, seed: 3, threads: 1, log_every: 20}
output: {dir: run, tensorboard: false}
YAML
expect 0 "all parameters" "run/model" -- "$MSPLORA" pretrain pretrain.yaml
# Ten subjects, verbs and adjectives: far below guessing, ln(300) = 5.7.
loss=$(json_number run/metrics.json last_loss)
perl -e 'exit($ARGV[0] < 1.5 ? 0 : 1)' "$loss" || fail "pretraining ended with a loss of $loss"
expect 0 "paused after step 60" -- "$MSPLORA" pretrain pretrain.yaml --set output.dir=again --set train.stop_at=60
expect 0 -- "$MSPLORA" pretrain pretrain.yaml --set output.dir=again --resume
cmp run/model/model.safetensors again/model/model.safetensors

expect 2 "data.whole_word" "has no effect" -- "$MSPLORA" pretrain pretrain.yaml --set data.whole_word=true \
  --set output.dir=none

# It has learnt the words of the text, and that lines end.
expect 0 -- "$MSPLORA" generate --model run/model --max-new-tokens 16 --prompt "the film"
grep -qE "^ ?(the film )?(was|seemed|felt|looked|sounded) (fine|lovely|bright|superb|charming|awful|dull|broken|dreary|poor)" out.txt ||
  fail "it wrote $(cat out.txt)"
