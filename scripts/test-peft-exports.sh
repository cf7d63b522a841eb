#!/usr/bin/env bash
# Trains small adapters, writes them in PEFT's form and has PEFT read them again: the logits of both must agree.
# Usage: test-peft-exports.sh [PYTHON]      (PYTHON: python3)
# PYTHON has torch, transformers and peft; without them the script says so and ends well. The models are the tiny ones of
# tests/golden/parity, the program is that of build/release.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
program=$PWD/build/release/bin/msplora
golden=$PWD/tests/golden/parity
if ! "$python" -c 'import torch, transformers, peft' 2> /dev/null; then
  echo "skipped: $python has no torch, transformers and peft"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# A vocabulary that every model has rows for.
words="the film book song was seemed felt fine lovely bright superb awful dull broken poor and"
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' $words > vocab.txt
printf 'text\tlabel\n' > data.tsv
for thing in film book song; do
  for verb in was seemed felt; do
    for good in fine lovely bright superb; do printf 'the %s %s %s\tgood\n' $thing $verb $good; done
    for bad in awful dull broken poor; do printf 'the %s %s %s\tbad\n' $thing $verb $bad; done
  done
done >> data.tsv
cut -f 1 data.tsv | sed -n '2,9p' > lines.txt

for name in llama-L6 mistral-L4 qwen2-L4 qwen3-L4; do
  mkdir -p "$name/base"
  cp "$golden/$name/config.json" "$golden/$name/model.safetensors" vocab.txt "$name/base"
  echo '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}' > "$name/base/tokenizer_config.json"
  "$program" tokenize --model "$name/base" --ids lines.txt > "$name/ids.txt"
  for variant in plain dora rslora pissa olora msplora saved_norms biases; do
    case $variant in
      plain) set=rank=4 ;;
      dora) set=use_dora=true ;;
      rslora) set=use_rslora=true ;;
      pissa | olora) set=init=$variant ;;
      msplora) set=method=msplora ;;
      saved_norms) set=modules_to_save=[norm] ;;
      biases) set=bias=all ;;
    esac
    [ $variant != biases ] || [ $name = qwen2-L4 ] || continue  # the others have none
    cat > recipe.yaml << YAML
model: {path: $name/base}
data: {train: data.tsv, max_length: 16}
adapter: {method: lora, rank: 4, alpha: 8, target_modules: [q_proj, v_proj, down_proj]}
train: {max_steps: 6, batch_size: 8, lr: 3.0e-2, seed: 3, threads: 1}
output: {dir: $name/$variant, tensorboard: false}
YAML
    "$program" train recipe.yaml --set adapter.$set > train.log 2>&1 || { cat train.log >&2; exit 1; }
    "$program" predict --model "$name/base" --adapter "$name/$variant/adapter" --logits --data lines.txt \
      --output "$name/$variant/logits.jsonl" --output-format jsonl > predict.log 2>&1 || { cat predict.log >&2; exit 1; }
  done
done

cat > check.py << 'PYTHON'
import json, pathlib, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, logging

logging.set_verbosity_error()
worst = 0.0
for written in sorted(pathlib.Path(".").glob("*/*/logits.jsonl")):
    folder = written.parent.parent
    ours = torch.tensor([list(json.loads(line)["logits"].values()) for line in open(written)])
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=2, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(base, written.parent / "adapter").eval()
    with torch.no_grad():
        theirs = torch.cat([model(input_ids=torch.tensor([[int(i) for i in line.split()]])).logits for line in open(folder / "ids.txt")])
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    worst = max(worst, difference)
    print(f"{str(written.parent):28s} {difference:.1e} of the largest logit", flush=True)
sys.exit(0 if 0 < worst < 1e-5 else 1)
PYTHON
HF_HUB_OFFLINE=1 "$python" check.py 2> check.log || { cat check.log >&2; exit 1; }
