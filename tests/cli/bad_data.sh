# Wrong data: file and line are named, nothing is guessed, truncation is counted.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
train() { "$MSPLORA" train recipe.yaml --set output.dir=out "$@"; }

{ cat "$data/dev.tsv"; printf 'the film was odd\tneutral\n'; } > unseen.tsv
expect 1 "unseen.tsv:66" "neutral" "\`negative\`, \`positive\`" -- train --set data.validation=unseen.tsv
{ head -3 "$data/train.tsv"; printf 'one\ttwo\tthree\n'; } > fields.tsv
expect 1 "fields.tsv:4" -- train --set data.train=fields.tsv
: > empty.tsv
expect 1 "empty.tsv" -- train --set data.train=empty.tsv
head -1 "$data/train.tsv" > header.tsv
expect 1 "header.tsv" -- train --set data.train=header.tsv
expect 1 "train.tsv" "sentense" "did you mean \`sentence\`?" -- train --set data.text=sentense
printf 'sentence\tlabel\na \377 b\tpositive\nc\tnegative\n' > bytes.tsv
expect 1 "bytes.tsv:2" "UTF-8" -- train --set data.train=bytes.tsv
printf '{"sentence": "a", "label": "x"}\n{"sentence": \n' > broken.jsonl
expect 1 "broken.jsonl:2" -- train --set data.train=broken.jsonl
{ echo "sentence,label"; echo '"never closed,positive'; } > quote.csv
expect 1 "quote.csv" -- train --set data.train=quote.csv
expect 1 "nowhere.tsv" -- train --set data.train=nowhere.tsv
printf 'sentence\tlabel\none\t1.5\ntwo\thigh\n' > values.tsv
expect 1 "values.tsv:3" "high" -- train --set task.type=regression --set data.train=values.tsv
[ ! -e out/adapter ] || fail "a failed run left an adapter"
rm -rf out

# Longer than the positions of the model (40): cut, stated and counted.
perl -e 'print "sentence\tlabel\n"; print "film " x 100, "lovely\tpositive\n" for 1 .. 3; print "dull film\tnegative\n" for 1 .. 5;' > long.tsv
expect 0 "data.max_length 500 is more than the model takes; 40 is used" "3 " "train" -- \
  train --set data.train=long.tsv --set data.max_length=500 --set train.max_steps=2
grep -qE "train .*\b3\b.*(cut|truncated)" both.txt || { cat both.txt >&2; fail "truncation is not counted"; }

# predict on bad input.
expect 1 "bytes.txt:2" "UTF-8" -- bash -c "printf 'ok\nb\377d\n' > bytes.txt; $MSPLORA predict --model $model --adapter out/adapter --data bytes.txt"
expect 1 "nowhere.txt" -- "$MSPLORA" predict --model "$model" --adapter out/adapter --data nowhere.txt

# validate finds the same, all at once.
expect 2 "2 problems" "fields.tsv:4" "quary" -- \
  "$MSPLORA" validate recipe.yaml --set data.train=fields.tsv --set "adapter.target_modules=[quary]"
