# predict and export: forms of input and output, names of columns, values in full; and what runs say of themselves.
. "$(dirname "$0")/lib.sh"

recipe | sed "s/epochs: 4/max_steps: 2/" > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml
predict() { "$MSPLORA" predict --model "$model" --adapter run/adapter "$@"; }
printf 'id,sentence\n7,"a film, ""good""\nand long"\n8,the book was dull\n' > new.csv
printf '{"id": 7, "tags": ["x"], "sentence": "a film"}\n' > new.jsonl
predict --data new.csv --keep all > all.csv

# Standard input is lines, or what --format says.
for form in csv jsonl; do
  predict --data new.$form --keep all > file.out
  predict --format $form --keep all < new.$form | cmp - file.out
  predict --format $form --keep all --data - < new.$form | cmp - file.out
done
printf 'id\tsentence\n7\ta film\n' | expect 0 "id	prediction" -- predict --format tsv --keep id
expect 2 "--text" "--format tsv, csv or jsonl" -- bash -c "\"$MSPLORA\" predict --adapter run --text sentence < new.csv"
: > none.txt
expect 1 "standard input" "empty" -- bash -c "\"$MSPLORA\" predict --adapter run < none.txt"
expect 1 "none.txt" "empty" -- predict --data none.txt

# Labels that are there in part are nobody's business here; columns are kept once, under a name of their own.
printf 'sentence,label\na film,positive\na book,\n' > partly.csv
printf '{"sentence": "a film", "label": "positive"}\n{"sentence": "a book", "label": null}\n' > partly.jsonl
for file in partly.csv partly.jsonl; do
  expect 0 "prediction" -- predict --data $file
done
expect 1 "partly.csv:3" "the label is empty" -- "$MSPLORA" eval --adapter run --data partly.csv
expect 2 "partly.csv:3" "all examples of the file have a label, or none" -- \
  "$MSPLORA" validate recipe.yaml --set data.test=partly.csv --set output.dir=other
expect 0 "id,prediction,negative" -- predict --data new.csv --keep id,id
expect 2 "--keep-prefix" -- predict --data all.csv --keep all
expect 0 "in_id,in_sentence,in_prediction," -- predict --data all.csv --keep all --keep-prefix in_
printf '{"sentence": "a film", "prediction": "x"}\n' > said.jsonl
expect 0 '"in_prediction":"x"' '"prediction":' -- predict --data said.jsonl --keep all --keep-prefix in_

# What ends in .gz would be taken for packed.
for name in out.csv.gz out.tsv.xz; do
  expect 2 "--output: $name: files are written unpacked" -- predict --data new.csv --output $name
  [ ! -e $name ] || fail "$name was written"
done

# Two forms in one directory: the older one would be read.
expect 0 -- "$MSPLORA" export --adapter run --format native --output forms
expect 2 "--output" "forms holds an adapter in the native form already" -- \
  "$MSPLORA" export --adapter run --format peft --output forms --overwrite
expect 0 -- "$MSPLORA" export --adapter run --format native --output forms --overwrite
expect 2 "GGUF: llama.cpp's models write text" "msplora predict" -- "$MSPLORA" export --adapter run --format gguf --output forms.gguf
expect 1 -- "$MSPLORA" export --adapter run --model "$data/shape" --format peft --output unmade
[ ! -e unmade ] || fail "a failed export left a directory"

# Values are written in full.
perl -e 'print "text\tlabel\n"; print "a film $_\t", 1234567 + $_ * 0.37, "\n" for 1 .. 8;' > values.tsv
sed 's/data: {.*}/data: {train: values.tsv, validation: values.tsv, test: values.tsv}/; s/dir: run/dir: values/; s/lr: [^,]*/lr: 1.0/' recipe.yaml > values.yaml
expect 0 "mae" -- "$MSPLORA" train values.yaml --set task.type=regression --set train.best_metric=mae
grep -q '"mae"' values/metrics.json || fail "no mae in metrics.json"
for form in tsv jsonl; do "$MSPLORA" predict --adapter values --data values.tsv --logits --output-format $form > told.$form; done
perl -MJSON::PP -e '
  open(my $table, "<", "told.tsv"); open(my $in, "<", "told.jsonl"); <$table>;
  while (<$in>) {
    my ($row, ($value)) = (decode_json($_), split /\t/, scalar(<$table>));
    exit 1 if $row->{prediction} != $value || pack("f", $value) ne pack("f", $row->{logits}[0]);
  }' || fail "a value of a regression was cut"

# A task.json of another adapter.
cp -r run/adapter wrong
cp values/adapter/task.json wrong/
expect 1 "wrong/task.json" "regression" "delete it, or copy it again" -- "$MSPLORA" predict --adapter wrong --data new.csv
head -c 100 run/adapter/task.json > wrong/task.json
expect 1 "wrong/task.json: expected JSON, found an end at byte 100: it is cut short" -- "$MSPLORA" predict --adapter wrong --data new.csv

# Tables of runs.
expect 2 "--metric: run has no \`acuracy\`; it has accuracy" "did you mean \`accuracy\`" -- "$MSPLORA" results run --metric acuracy
expect 0 "| values | regression" "| run " "mae (test)" -- "$MSPLORA" results run values
grep -q "^part,prediction,target,predicted label,label$" run/test.csv || fail "no names in test.csv"
grep -Eq "^test,[01],1,(positive|negative),positive$" run/test.csv || { head -3 run/test.csv >&2; fail "names in test.csv"; }
