# What is written for llama.cpp, and what is refused: the model of these tests is an encoder, which GGUF has no place for.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml --set train.max_steps=5
use=(--model "$model" --adapter run/adapter-native)

expect 2 "GGUF" "classifier" -- "$MSPLORA" merge "${use[@]}" --format gguf --output merged.gguf
expect 2 "GGUF" "this adapter is for classification" -- "$MSPLORA" export "${use[@]}" --format gguf --output adapter.gguf
[ ! -e merged.gguf ] && [ ! -e merged.gguf.part ] && [ ! -e adapter.gguf ] || fail "something was left of a file that was refused"

echo before > there.gguf
expect 1 "there.gguf: the output file exists" -- "$MSPLORA" merge "${use[@]}" --format gguf --output there.gguf
mkdir folder
expect 1 "expected a file, found a directory" -- "$MSPLORA" export "${use[@]}" --format gguf --output folder
[ "$(cat there.gguf)" = before ] || fail "a file was overwritten without being asked"

expect 2 "--type" "has no effect with --format hf" -- "$MSPLORA" merge "${use[@]}" --type f16 --output merged
expect 2 "--save-dtype" "has no effect with --format gguf" -- \
  "$MSPLORA" merge "${use[@]}" --format gguf --save-dtype float32 --output merged.gguf
expect 2 "--type" "--format gguf alone" -- "$MSPLORA" export "${use[@]}" --format peft --type f16 --output peft
expect 2 "--type" -- "$MSPLORA" merge "${use[@]}" --format gguf --type q4_k --output merged.gguf
expect 0 "peft form" -- "$MSPLORA" export "${use[@]}" --format peft --output peft
