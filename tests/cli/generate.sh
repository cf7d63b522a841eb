# Texts of the bundled decoder: generate and chat, alone and together, with adapters, and what cannot be asked of them.
. "$(dirname "$0")/lib.sh"

decoder=$SOURCE_DIR/models/msplora-decoder-mini
[ -d "$decoder" ] || fail "the bundled decoder is missing"

# The same text on the terminal, as JSON, from standard input and from a file.
expect 0 -- "$MSPLORA" generate --model "$decoder" --prompt "This package contains" --max-new-tokens 12 --dtype float32
cp out.txt text.txt
[ -s text.txt ] || fail "no text"
expect 0 "12 written" -- sh -c "printf 'This package contains\n' | '$MSPLORA' generate --model '$decoder' --max-new-tokens 12 --dtype float32"
head -n 1 out.txt | diff -u text.txt - || fail "standard input gives another text"
printf '{"prompt": "This package contains", "id": "a"}\n{"prompt": "A library for", "max_new_tokens": 3}\n' > prompts.jsonl
"$MSPLORA" generate --model "$decoder" --prompts prompts.jsonl --max-new-tokens 12 --dtype float32 --output texts.jsonl 2> err.txt ||
  { cat err.txt >&2; fail "prompts of a file"; }
grep -q '"id":"a"' texts.jsonl || fail "the id of a prompt is lost"
[ "$(wc -l < texts.jsonl)" = 2 ] || fail "two prompts give two lines"
grep -q '"finish_reason":"max_new_tokens"' texts.jsonl || fail "why a text ended is not said"

# Draws depend on the seed alone.
draw() { "$MSPLORA" generate --model "$decoder" --prompt "A tool" --temperature 1 --top-k 40 --seed "$1" --max-new-tokens 16 2> /dev/null; }
[ "$(draw 1)" = "$(draw 1)" ] || fail "the same seed gives another text"
[ "$(draw 1)" != "$(draw 2)" ] || fail "another seed gives the same text"

expect 0 "tokens read and 12 written" -- "$MSPLORA" generate --model "$decoder" --prompt "This package contains" --temperature 1 --samples 4 --max-new-tokens 3
once=$(grep -o '[0-9]* tokens read' err.txt)
"$MSPLORA" generate --model "$decoder" --prompt "This package contains" --max-new-tokens 3 > out.txt 2> err.txt
grep -q "$once" err.txt || fail "a prompt of several texts is read more than once"

# Stop strings are left out, beams have scores.
expect 0 -- "$MSPLORA" generate --model "$decoder" --prompt "This package contains" --max-new-tokens 40 --stop " "
expect 0 '"beams":' '"score":' -- "$MSPLORA" generate --model "$decoder" --prompt "A tool" --num-beams 3 --max-new-tokens 5 --json

# An adapter that was trained on texts writes its own text; both adapters serve one process.
for i in $(seq 40); do echo "The answer is blue, and nothing else is."; done > blue.txt
cat > sft.yaml <<RECIPE
model: {path: $decoder}
task: {type: sft}
data: {train: blue.txt, max_length: 64}
adapter: {method: lora, rank: 8, alpha: 32, target_modules: [q_proj, v_proj, down_proj, lm_head]}
train: {epochs: 10, batch_size: 8, lr: 1.0e-2}
output: {dir: blue}
RECIPE
expect 0 "rows of text" -- "$MSPLORA" data preview sft.yaml
expect 0 '"labels"' -- "$MSPLORA" data preview sft.yaml --json
expect 0 -- "$MSPLORA" train sft.yaml
expect 0 "is blue" -- "$MSPLORA" generate --model "$decoder" --adapter blue/adapter --prompt "The answer" --max-new-tokens 8
expect 0 "is blue" -- "$MSPLORA" generate --model "$decoder" --adapter blue/adapter-native --merge --prompt "The answer" --max-new-tokens 8
# The output layer is tied to the table of words until it is merged.
expect 0 -- "$MSPLORA" merge --model "$decoder" --adapter blue/adapter-native --output merged
grep -q '"tie_word_embeddings": false' merged/config.json || fail "the merged output layer is tied"
expect 0 "is blue" -- "$MSPLORA" generate --model merged --prompt "The answer" --max-new-tokens 8
expect 0 -- "$MSPLORA" merge --model "$decoder" --adapter blue/adapter --format gguf --type f32 --output merged.gguf
expect 0 "is blue" -- "$MSPLORA" generate --model merged.gguf --prompt "The answer" --max-new-tokens 8
printf '{"prompt": "The answer", "adapter": "blue"}\n{"prompt": "The answer", "adapter": ""}\n' > both.jsonl
"$MSPLORA" generate --model "$decoder" --adapter blue=blue/adapter --prompts both.jsonl --max-new-tokens 8 --json > adapters.txt 2> err.txt ||
  { cat err.txt >&2; fail "an adapter by name"; }
head -n 1 adapters.txt | grep -q "is blue" || fail "the adapter that a row names does not act"
tail -n 1 adapters.txt | grep -q "is blue" && fail "the adapter acts where none is asked for"
expect 0 "loss" -- "$MSPLORA" eval --model "$decoder" --adapter blue/adapter --data blue.txt

# A run by its directory, which is its name too; the model is the one that it names.
expect 0 "is blue" -- "$MSPLORA" generate --adapter blue --prompt "The answer" --max-new-tokens 8
expect 0 "is blue" "adapter: none" -- sh -c "printf '/adapter blue\nThe answer\n/adapter none\n/quit\n' |
  '$MSPLORA' chat --adapter blue --max-new-tokens 8"
expect 2 "--model" "is required where no adapter is given" -- "$MSPLORA" generate --prompt x

# Instructions go on from an adapter of texts, and from one made elsewhere, which has no task.json.
cp -r blue/adapter elsewhere && rm elsewhere/task.json
for from in blue/adapter elsewhere; do
  expect 0 -- "$MSPLORA" train sft.yaml --set adapter.init_from=$from --set train.max_steps=1 --set output.dir=on-from-$(basename $from)
done
expect 2 "was trained for CAUSAL_LM" -- "$MSPLORA" train sft.yaml --set adapter.init_from=elsewhere --set task.type=regression --set output.dir=no
expect 2 "was trained for sft" -- "$MSPLORA" train sft.yaml --set adapter.init_from=blue/adapter --set task.type=regression --set output.dir=no

# chat: one text in turn, or messages where a template is named.
expect 0 "is blue" "adapter: none" -- sh -c "printf 'The answer\n/adapter none\n/quit\n' |
  '$MSPLORA' chat --model '$decoder' --adapter blue=blue/adapter --max-new-tokens 8"
expect 0 '"finish_reason"' -- sh -c "printf 'Hello\n' | '$MSPLORA' chat --model '$decoder' --chat-template chatml --max-new-tokens 4 --json"
# A mistyped command is said, and the conversation goes on; the status at the end tells whoever does not read along.
expect 2 "did you mean \`/reset\`?" -- sh -c "printf '/rest\n' | '$MSPLORA' chat --model '$decoder'"
expect 2 "did you mean \`/save\`?" "is blue" "adapter: none" -- sh -c "printf '/sav x\nThe answer\n/adapter none\n' |
  '$MSPLORA' chat --adapter blue --max-new-tokens 8"
expect 2 '"finish_reason"' '{"error":{"where":"chat"' -- sh -c "printf '/sav x\nThe answer\n' | '$MSPLORA' chat --adapter blue --max-new-tokens 8 --json"
expect 1 "is blue" "no-such-folder" -- sh -c "printf '/save no-such-folder/x\nThe answer\n' | '$MSPLORA' chat --adapter blue --max-new-tokens 8"
expect 2 "--system" "--plain" -- "$MSPLORA" chat --model "$decoder" --plain --system x

# What cannot be.
long=$(for i in $(seq 900); do printf 'word '; done)
expect 1 "tokens, the model takes" -- "$MSPLORA" generate --model "$decoder" --prompt "$long"
# The others are answered, on standard output and in a file.
printf '{"prompt": "A tool", "id": 1}\n{"prompt": "%s", "id": 2}\n{"prompt": "A library", "id": 3}\n' "$long" > some.jsonl
expect 1 "some.jsonl:2: has" "1 of the prompts was not answered" -- "$MSPLORA" generate --model "$decoder" --prompts some.jsonl --max-new-tokens 4 --output some-texts.jsonl
[ "$(wc -l < some-texts.jsonl)" = 3 ] || fail "not every prompt has its line"
[ "$(grep -c '"finish_reason"' some-texts.jsonl)" = 2 ] || fail "the others are not answered"
sed -n 2p some-texts.jsonl | grep -q '"id":2.*"error":"some.jsonl:2: has' || fail "the line of a prompt that is not answered does not say why"
printf 'A tool\n%s\nA library\n' "$long" > some.txt
expect 1 "==> A tool" "==> some.txt:2" "not answered: has" "==> A library" -- "$MSPLORA" generate --model "$decoder" --prompts some.txt --max-new-tokens 4
expect 1 "==> A tool" "not answered: has" -- "$MSPLORA" generate --model "$decoder" --prompt "A tool" --prompt "$long" --max-new-tokens 4
# Arguments that exclude each other, as they were typed.
expect 2 "--num-beams: beams are not drawn, but --temperature draw" -- "$MSPLORA" generate --model "$decoder" --prompt x --num-beams 4 --temperature 0.7
expect 2 "--greedy: takes the likeliest token, but --do-sample, --top-k draw" -- "$MSPLORA" generate --model "$decoder" --prompt x --greedy --do-sample --top-k 5
expect 2 "--samples: nothing is drawn" -- "$MSPLORA" generate --model "$decoder" --prompt x --samples 3
expect 2 "--logprobs: are shown as JSON alone" -- "$MSPLORA" generate --model "$decoder" --prompt x --logprobs
expect 2 "--length-penalty: acts with beams alone" -- "$MSPLORA" generate --model "$decoder" --prompt x --length-penalty 2
expect 2 "--chat-template: no prompt is a conversation" -- "$MSPLORA" generate --model "$decoder" --prompt x --chat-template chatml
printf '{"prompt": "x", "temperature": 0.5}\n' > drawn.jsonl
expect 1 "drawn.jsonl:1: num_beams: 4 beams and temperature 0.5 exclude each other" -- "$MSPLORA" generate --model "$decoder" --num-beams 4 --prompts drawn.jsonl
# Contents in parts are read; images are not.
printf '{"messages": [{"role": "user", "content": [{"type": "text", "text": "A tool"}]}]}\n{"messages": [{"role": "user", "content": [{"type": "image"}]}]}\n' > parts.jsonl
expect 1 '"prompt_tokens"' "parts.jsonl:2: messages[0].content[0]: a part of the kind" -- "$MSPLORA" generate --model "$decoder" --chat-template chatml --prompts parts.jsonl --max-new-tokens 4 --json
expect 2 "top_p" "max_new_tokens" -- "$MSPLORA" generate --model "$decoder" --prompt x --top-p 3 --max-new-tokens many
expect 1 "prompts2.jsonl:1" "a text \`prompt\` or a list \`messages\`" -- sh -c "echo '{}' > prompts2.jsonl; '$MSPLORA' generate --model '$decoder' --prompts prompts2.jsonl"
expect 1 "the model's files have none" "name one of" -- "$MSPLORA" generate --model "$decoder" --prompt x --chat
expect 1 "cannot be used for causal language modelling" -- "$MSPLORA" generate --model "$model" --prompt x
expect 2 "did you mean \`blue\`?" -- sh -c "printf '{\"prompt\": \"x\", \"adapter\": \"bleu\"}\n' > bleu.jsonl;
  '$MSPLORA' generate --model '$decoder' --adapter blue=blue/adapter --prompts bleu.jsonl"

# Where memory runs out, the hint is of what this command could do with less. How much the libraries take is the system's.
hint=unknown
yes x | head -n 3000000 > many.txt || true
for limit in 1300000 1800000 2500000; do
  bash -c "ulimit -v $limit; exec '$MSPLORA' --version" > loaded.txt 2>&1 || continue
  hint=none
  bash -c "ulimit -v $limit; exec '$MSPLORA' generate --model '$decoder' --prompts many.txt --threads 1" > out.txt 2> err.txt || true
  grep -q "memory: the system has no more of it (fewer texts at a time (--max-batch" err.txt && hint=there && break
done
[ "$hint" != none ] || { cat err.txt >&2; fail "memory that runs out has not the hint of generate"; }
