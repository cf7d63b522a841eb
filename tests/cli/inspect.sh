# Counts that are known from the paper's tables and by hand; no weights are needed.
. "$(dirname "$0")/lib.sh"

count() { # EXPECTED ARGUMENTS...
  local expected=$1
  shift
  expect 0 "\"trainable_parameters\": $expected," -- "$MSPLORA" inspect --json "$@"
}
per_level() {
  grep -qF "\"per_level\":$1" <(tr -d ' \n' < out.txt) || { cat out.txt >&2; fail "expected per_level $1"; }
}

count 135168 --shape roberta-base --method msplora --rank 8
per_level "[24576,36864,73728]"
count 294912 --shape roberta-base --method lora --rank 8 --target-modules query,value
count 24576 --shape roberta-base --method msplora --rank 8 --levels 1
count 172032 --shape roberta-base --method msplora --rank 8 --levels 2
count 116736 --shape roberta-base --method msplora --rank 8 --levels 4
count 11010048 --shape llama-2-7b --method msplora --rank 64 --target-modules q_proj,v_proj
grep -qF '"owners":[[0],[0,11,22],[0,1,2,' <(tr -d ' \n' < out.txt) || fail "owners of the mid groups of 32 layers"
count 33554432 --shape llama-2-7b --method lora --rank 64 --target-modules q_proj,v_proj
count 33554432 --shape llama-2-7b --method lora --rank 64
grep -qF '"target_modules":["q_proj","v_proj"]' <(tr -d ' \n' < out.txt) || fail "the family's targets"
count 159744 --shape roberta-base --method aslora --rank 8
grep -qF '"trainable_parameters_at_end": 73728' out.txt || fail "count of aslora after its merges"
expect 0 "aslora at the end" "73,728" -- "$MSPLORA" inspect --shape roberta-base --method aslora
count 1327104 --shape deberta-v3-base --method prilora \
  --target-modules query_proj,key_proj,value_proj,attention.output.dense,intermediate.dense,output.dense
count 0 --shape roberta-base --method none
expect 0 -- "$MSPLORA" inspect --json --shape tinyllama-1.1b --method msplora
grep -qF '"owners":[[0],[0,8,15],' <(tr -d ' \n' < out.txt) || fail "owners of the mid groups of 22 layers"
expect 0 "135,168" "294,912" "124." "query" "intermediate" "memory" -- "$MSPLORA" inspect --shape roberta-base
for shape in roberta-large bert-base-uncased deberta-v3-base llama-3-8b; do
  expect 0 "msplora" "lora" -- "$MSPLORA" inspect --shape $shape
done
expect 0 '"checkpoint_activations": true' -- "$MSPLORA" inspect --json --shape roberta-base --method lora --checkpoint-activations
grep -qE '"recomputed_flops":[1-9]' <(tr -d ' \n' < out.txt) || fail "checkpointing repeats products"
expect 0 "TFLOP a step" "inputs of blocks alone" -- "$MSPLORA" inspect --shape roberta-base --checkpoint-activations
# By hand: 32 sequences of 128 tokens, 12 blocks of 7,077,888 weights, of the last one keys and values alone for
# all tokens; a head of 768 x 768 and 768 x 2. Forward 0.6656 TF; the head: + gradients of its weights and of one
# input; the biases: + the whole way back; full: + gradients of all weights.
flops() { # METHOD OPERATIONS
  expect 0 -- "$MSPLORA" inspect --json --shape roberta-base --method $1
  grep -qF "\"flops\":$2" <(tr -d ' \n' < out.txt) || { cat out.txt >&2; fail "expected $2 operations of $1"; }
  grep -qF "at_end" out.txt && fail "$1 drops nothing in the course of training"
  true
}
flops none 665648922624.0
flops bitfit 1348989124608.0
flops full 1996832931840.0
expect 0 "prilora" "4 to 12" -- "$MSPLORA" inspect --shape roberta-base --method prilora
expect 0 -- "$MSPLORA" inspect --json --shape roberta-base --method prilora
grep -qF '"ranks":[4,5,5,6,7,8,8,9,10,11,11,12]' <(tr -d ' \n' < out.txt) || { cat out.txt >&2; fail "ranks of prilora"; }
expect 0 "gelora" "to be estimated" "at least 36,864" -- "$MSPLORA" inspect --shape roberta-base --method gelora
expect 0 '"ranks_to_be_estimated": true' -- "$MSPLORA" inspect --json --shape roberta-base --method gelora
expect 2 "quary" -- "$MSPLORA" inspect --shape roberta-base --target-modules quary
