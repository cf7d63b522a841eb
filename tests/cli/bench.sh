# The benchmark commands run and report what they should; no test looks at a time. The smallest shape, so that they
# take seconds on a busy machine too.
. "$(dirname "$0")/lib.sh"

expect 0 "at::linear" "64x32x48" -- "$MSPLORA" bench gemm --size 64x32x48 --repeat 2 --threads 1
expect 0 '"products"' '"best_gflops"' -- "$MSPLORA" bench gemm --size 64x32x48 --repeat 2 --threads 1 --json
expect 2 "ROWSxINxOUT" -- "$MSPLORA" bench gemm --size 64x32
expect 0 "norm forward" "attention backward" "rotary, halves" "of the floor" \
  -- "$MSPLORA" bench kernels --shape bert-tiny --batch 1 --seq 8 --repeat 1 --threads 1

small=(--shape bert-tiny --batch 2 --seq 8 --steps 1 --threads 1)
expect 0 "roof_share" "tokens/s" "linear forward" "low rank backward" "optimizer" -- "$MSPLORA" bench step "${small[@]}"
json=$("$MSPLORA" bench step "${small[@]}" --json --no-roof)
[[ $json == *peak_memory_bytes* && $json != *roof* ]] || fail "--no-roof reports a roof"
expect 0 '"roof_share"' '"peak_memory_bytes"' '"profile"' '"tokens": 16,' -- "$MSPLORA" bench step "${small[@]}" --json
expect 2 "no-such" -- "$MSPLORA" bench step --shape no-such
expect 2 "--seq" "512" -- "$MSPLORA" bench step --seq 600
expect 2 "lorra" "lora" -- "$MSPLORA" bench step --method lorra "${small[@]}"

expect 0 "tokens" "roof_share" -- "$MSPLORA" bench epoch --data "$data/train.tsv" --text sentence --tokenizer "$model" \
  --shape bert-tiny --max-length 16 --token-budget 64 --max-steps 2 --threads 1
expect 0 "tokens" -- "$MSPLORA" bench epoch --data "$data/train.tsv" --text sentence --tokenizer "$model" \
  --shape bert-tiny --max-length 16 --batch-size 4 --max-steps 2 --threads 1
expect 0 "tokens/s" "of the roof" "of the memory" -- "$MSPLORA" bench generate --weights "$SOURCE_DIR/tests/golden/generation/llama" --prompt 6 --new 4 --texts 2 \
  --draw --rounds 1 --threads 1
expect 2 "bert" -- "$MSPLORA" bench generate --shape bert-tiny --prompt 6 --new 4
expect 0 "ready to train" "MB/s" -- "$MSPLORA" bench load --shape bert-tiny --repeat 1
expect 0 "analysed in" "peak memory" -- "$MSPLORA" bench analyze --shape bert-tiny --keep drawn
expect 0 "msplora, 3 levels" -- "$MSPLORA" analyze drawn
expect 0 "of taken" "checkpoints" "full" -- "$MSPLORA" bench memory --shapes bert-tiny --dtypes float32 \
  --batch 2 --seq 8 --steps 1 --threads 1
json=$("$MSPLORA" bench memory --shapes bert-tiny --dtypes bfloat16 --methods lora --batch 2 --seq 8 --steps 1 --json 2> /dev/null)
[[ $json == *estimated_bytes* && $json == *taken_bytes* ]] || fail "bench memory reports no memory: $json"
expect 2 "no-such" -- "$MSPLORA" bench memory --shapes no-such
expect 0 "of lora, best" "flatlora" "gelora" -- "$MSPLORA" bench methods "${small[@]}" --methods flatlora,gelora --rounds 1
expect 2 "lorra" -- "$MSPLORA" bench methods "${small[@]}" --methods lorra
expect 2 "--data" -- "$MSPLORA" bench epoch --tokenizer "$model"

# The peer needs PyTorch; without it the command says what to install.
if /usr/bin/python3 -c 'import torch' 2> /dev/null; then
  expect 0 "times as long" -- "$MSPLORA" bench peers "${small[@]}" --rounds 1 --script "$SOURCE_DIR/bench/peers/pytorch.py"
else
  expect 2 "python3-torch" -- "$MSPLORA" bench peers "${small[@]}" --script "$SOURCE_DIR/bench/peers/pytorch.py"
fi
expect 2 "lora and msplora" -- "$MSPLORA" bench peers --method none --script "$SOURCE_DIR/bench/peers/pytorch.py"
