# Class names and heads: whose they are, what numbers in a file mean, and what a base brings along.
. "$(dirname "$0")/lib.sh"

perl -e '
  for my $form (["names", "yes", "maybe", "no"], ["numbers", 0, 1, 2]) {
    open(my $out, ">", "$form->[0].tsv") or die;
    print $out "text\tlabel\n";
    for my $i (1 .. 12) { print $out "the film $_ $i\t", {lovely => $form->[1], so => $form->[2], dull => $form->[3]}->{$_}, "\n" for qw(lovely so dull); }
  }'
cat > three.yaml << YAML
model: {path: $model}
data: {train: names.tsv, max_length: 16}
adapter: {method: lora, rank: 4}
train: {epochs: 8, lr: 2.0e-2, threads: 1}
output: {dir: three, tensorboard: false}
YAML
expect 0 -- "$MSPLORA" train three.yaml
names() { "$MSPLORA" eval --model "$model" --adapter three/adapter --data "$@"; }
expect 0 "precision" "macro average" "true \\ predicted" -- names names.tsv
accuracy=$(names names.tsv --json | json_number /dev/stdin accuracy)
[ "$(names names.tsv --json | grep -c '"support": 12')" = 3 ] || fail "no support of 12 for three classes"
grep -q '"confusion_matrix"' three/metrics.json && fail "there was nothing to evaluate on"

# Numbers say nothing about names, until somebody says what they stand for; the order of the list counts.
expect 1 "numbers.tsv:2" "\`0\`" "--labels NAME,NAME" -- names numbers.tsv
expect 0 "\"accuracy\": $accuracy" -- names numbers.tsv --labels yes,maybe,no --json
expect 2 "no class is called \`mayby\`" "did you mean \`maybe\`" -- names numbers.tsv --labels yes,mayby,no
expect 2 "no class is called \`so, \"good\"\`" -- names numbers.tsv --labels 'yes,"so, ""good""",no'
expect 2 "2 class names for 3 classes" -- names numbers.tsv --labels yes,no
expect 1 "numbers.tsv:2" -- "$MSPLORA" train three.yaml --set data.validation=numbers.tsv --set output.dir=never
expect 0 "yes, maybe, no" -- "$MSPLORA" validate three.yaml --set data.validation=numbers.tsv --labels yes,maybe,no --set output.dir=never
# What training was told, later commands know.
expect 0 -- "$MSPLORA" train three.yaml --labels "yes,maybe,no" --set data.train=numbers.tsv --set output.dir=told
expect 0 -- "$MSPLORA" eval --model "$model" --adapter told/adapter --data numbers.tsv
expect 0 -- "$MSPLORA" eval --model "$model" --adapter told/adapter --data names.tsv

# An adapter made elsewhere has no class names; those given to merge are written.
cp -r three/adapter foreign && rm foreign/task.json
expect 0 "the 3 classes have no names" -- "$MSPLORA" merge --model "$model" --adapter foreign --output unnamed
expect 0 -- "$MSPLORA" merge --model "$model" --adapter foreign --output named --labels '"maybe, so",no,yes'
grep -q '"0": "maybe, so"' named/config.json || fail "merge did not write the names"
echo "the film lovely 1" | expect 0 "yes" -- "$MSPLORA" predict --model "$model" --adapter foreign --labels maybe,no,yes

# Names of the base are not put on other classes, and contradictions among them stop nobody.
cp -r "$model" renamed
perl -0pi -e 's/^\{/{"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 1, "x": 7}, "problem_type": "multi_label_classification",/' renamed/config.json
perl -ne 'print unless /\tmaybe$/' names.tsv | sed 's/yes$/1/; s/\tno$/\t0/' > two.tsv
expect 0 "no problem found" -- "$MSPLORA" validate three.yaml --set model.path=renamed --set data.train=two.tsv --set output.dir=two
expect 0 -- "$MSPLORA" train three.yaml --set model.path=renamed --set data.train=two.tsv --set output.dir=two
echo "the film lovely 1" > one.txt
"$MSPLORA" predict --model renamed --adapter two/adapter --data one.txt > out.txt
if grep -q "TIVE" out.txt two/adapter/task.json; then fail "names of the base on other classes"; fi
expect 0 -- "$MSPLORA" merge --model renamed --adapter two/adapter --output merged-two
if grep -q "TIVE" merged-two/config.json; then fail "merge kept the base's names"; fi

# A head of three outputs under two classes is drawn anew, and said so before and at the start.
expect 0 "fresh" "the base's head has 3 outputs" -- \
  "$MSPLORA" validate three.yaml --set model.path=named --set data.train=two.tsv --set output.dir=fresh
expect 0 "fresh" "the base's head has 3 outputs" -- \
  "$MSPLORA" train three.yaml --set model.path=named --set data.train=two.tsv --set output.dir=fresh
# One for another task may have the right shapes and is drawn anew all the same.
cp -r named tokens && perl -pi -e 's/BertForSequenceClassification/BertForTokenClassification/' tokens/config.json
expect 0 "fresh" "that of a BertForTokenClassification" -- \
  "$MSPLORA" train three.yaml --set model.path=tokens --set output.dir=tagged
expect 1 "no trained head" -- "$MSPLORA" predict --model tokens --data one.txt

# Numbers with many values are a regression.
perl -e 'print "text\tlabel\n"; printf "the film was fine %d\t%.2f\n", $_, $_ / 7 for 1 .. 40' > values.tsv
expect 1 "values.tsv" "set task.type to regression" -- "$MSPLORA" train three.yaml --set data.train=values.tsv --set output.dir=values
expect 2 "set task.type to regression" -- "$MSPLORA" validate three.yaml --set data.train=values.tsv --set output.dir=values

# What is said of the data.
{ cat names.tsv; printf 'the film lovely 1\tno\nx\tYes\n'; } > dirty.tsv
for command in "validate three.yaml --set output.dir=dirty" "data preview three.yaml"; do
  expect 0 "fewer than 5 examples: \`Yes\` (1)" "differ only in case or spaces: \`Yes\` (1), \`yes\` (12)" \
    "1 training texts occur with different labels" "validation examples have a text that is in the training data too" -- \
    "$MSPLORA" $command --set data.train=dirty.tsv --set data.validation=names.tsv
done
# Words that the vocabulary does not know, and control characters, which must not reach the terminal.
{ cat names.tsv; for i in 1 2 3; do printf 'the \033[2Jfilm %s\tdull\033[1m\n' "$(printf '\u4e2d\u6587 %.0s' 1 2 3 4 5 6 7 8)"; done; } > strange.tsv
strange="--set data.train=strange.tsv --set data.validation=strange.tsv --set output.dir=strange"
for command in "validate three.yaml" "data preview three.yaml --examples 40" "train three.yaml"; do
  expect 0 "% of the tokens are [UNK]" 'fewer than 5 examples: `dull\x1b[1m` (3)' -- "$MSPLORA" $command $strange
  if grep -q $'\033' both.txt; then fail "control characters on the terminal: $command"; fi
done
expect 0 "% of the tokens are [UNK]" -- "$MSPLORA" validate three.yaml $strange --json --overwrite
expect 0 "% of the tokens are [UNK]" 'dull\x1b[1m' -- "$MSPLORA" eval --model "$model" --adapter strange/adapter --data strange.tsv
if grep -q $'\033' both.txt; then fail "control characters on the terminal: eval"; fi
expect 0 "% of the tokens are [UNK]" -- "$MSPLORA" predict --model "$model" --adapter strange/adapter --data strange.tsv --output strange.out
perl -e 'print "\x{4e2d}\x{6587} the film was lovely\n" x 20' -CO > foreign.txt
expect 0 "% of the tokens are [UNK]" -- "$MSPLORA" pretrain "$data/pretrain.yaml" --set data.train=[foreign.txt] \
  --set data.validation=[foreign.txt] --set model.path="$data/shape" --set train.max_steps=1 --set output.dir=foreign-run
printf 'text\tlabel\na\tyes\nb\t\nc\tno\nd\t\n' > holes.tsv
expect 1 "holes.tsv:3" "those of 1 other examples (lines 5)" -- "$MSPLORA" train three.yaml --set data.train=holes.tsv --set output.dir=holes
