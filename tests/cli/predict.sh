# predict: what it writes, in which form, and that it never destroys a file.
. "$(dirname "$0")/lib.sh"

recipe | sed "s/epochs: 4/epochs: 1/" > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml
predict() { "$MSPLORA" predict --model "$model" --adapter run/adapter "$@"; }

printf 'id,sentence\n7,"a film, ""good""\nand long"\n8,the book was dull\n' > new.csv
predict --data new.csv --keep all --logits > all.csv
[ "$(head -1 all.csv)" = "id,sentence,prediction,negative,positive,logit:negative,logit:positive" ] || { cat all.csv >&2; fail "columns"; }
grep -qF '7,"a film, ""good""' all.csv || fail "a quoted field is not written as it was read"
# What was written can be read again, and says the same.
predict --data all.csv --keep id > again.csv
predict --data new.csv --keep id | cmp - again.csv
expect 2 "the column \`prediction\` is kept" -- predict --data all.csv --keep all
expect 1 "did you mean \`id\`?" -- predict --data new.csv --keep idd
printf 'id;sentence\n7;a film, good\n8;the book was dull\n' > excel.csv
expect 0 "id;prediction;negative;positive" "\`;\` between fields (recognised)" -- predict --data excel.csv --keep id
printf '{"id": 7, "tags": ["x"], "sentence": "a film"}\n' > new.jsonl
expect 0 '"tags":["x"]' '"prediction"' '"logits"' -- predict --data new.jsonl --keep all --logits
predict --data new.csv --output out.tsv
[ "$(head -1 out.tsv)" = "$(printf 'prediction\tnegative\tpositive')" ] || fail "the extension of --output does not count"
echo "a film" | predict --keep text | grep -q "^a film	" || fail "plain text cannot be kept"

# An input is never an output, whatever its name; a run that fails leaves what was there.
cp new.csv only.csv && ln only.csv hard.csv && ln -s only.csv soft.csv
for output in only.csv ./only.csv hard.csv soft.csv "$model/config.json" run/adapter/task.json; do
  expect 2 "--output" -- predict --data only.csv --output "$output"
done
cmp new.csv only.csv
echo "earlier results" > earlier.tsv
expect 1 -- predict --data missing.tsv --output earlier.tsv
printf 'sentence\nok\n' > broken.tsv && printf 'b\377d\n' >> broken.tsv
expect 1 "broken.tsv:3" -- predict --data broken.tsv --output earlier.tsv
[ "$(cat earlier.tsv)" = "earlier results" ] || fail "a failing run replaced earlier results"
[ -z "$(ls | grep '\.tmp-' || true)" ] || fail "a failing run left a part of a file"
expect 0 -- predict --data new.csv --output /dev/null
[ -c /dev/null ] || fail "/dev/null was replaced"
ln -s real.tsv link.tsv
expect 0 -- predict --data new.csv --output link.tsv
[ -L link.tsv ] && [ -s real.tsv ] || fail "a link was replaced by a file"
for command in merge "export --to native"; do
  for output in "$model" run/adapter; do
    expect 2 "--output" -- "$MSPLORA" $command --model "$model" --adapter run/adapter --output "$output" --overwrite
  done
done

# A run stands for its adapter, and an adapter for the model it names.
predict --data new.csv > named.csv
"$MSPLORA" predict --adapter run --data new.csv | cmp - named.csv
"$MSPLORA" predict --adapter run/adapter --data new.csv | cmp - named.csv
expect 0 "run/adapter" -- "$MSPLORA" eval --adapter run/adapter --data "$data/dev.tsv" --json
expect 2 "--model" "is required where no adapter is given" -- "$MSPLORA" predict --data new.csv
expect 1 "holds no adapter" -- "$MSPLORA" eval --adapter "$model" --data "$data/dev.tsv"
cp -r run/adapter moved
sed -i "s|\"base_model_name_or_path\": \"[^\"]*\"|\"base_model_name_or_path\": \"gone/away\"|" moved/adapter_config.json
expect 2 "was trained on gone/away, which is not there" "--model" -- "$MSPLORA" predict --adapter moved --data new.csv
expect 2 "--output" -- "$MSPLORA" merge --adapter run --output run --overwrite
[ -e run/adapter ] || fail "a run was replaced by a model"

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
expect 1 "partly.csv:3" "all examples of the file have a label, or none" -- \
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
expect 2 "gguf: llama.cpp's models write text" "msplora predict" -- "$MSPLORA" export --adapter run --format gguf --output forms.gguf
expect 1 -- "$MSPLORA" export --adapter run --model "$data/shape" --format peft --output unmade
[ ! -e unmade ] || fail "a failed export left a directory"

# Values are written in full.
perl -e 'print "text\tlabel\n"; print "a film $_\t", 1234567 + $_ * 0.37, "\n" for 1 .. 8;' > values.tsv
sed 's/data: {.*}/data: {train: values.tsv, validation: values.tsv, test: values.tsv}/; s/dir: run/dir: values/; s/lr: [^,]*/lr: 1.0/' recipe.yaml > values.yaml
expect 0 "mae" -- "$MSPLORA" train values.yaml --set task.type=regression --set train.best_metric=mae
grep -q '"mae"' values/metrics.json || fail "no mae in metrics.json"
for form in tsv jsonl; do "$MSPLORA" predict --adapter values --data values.tsv --logits --output-format $form > values.$form; done
perl -MJSON::PP -e '
  open(my $table, "<", "values.tsv"); open(my $in, "<", "values.jsonl"); <$table>;
  while (<$in>) {
    my ($row, ($value)) = (decode_json($_), split /\t/, scalar(<$table>));
    exit 1 if $row->{prediction} != $value || pack("f", $value) ne pack("f", $row->{logits}[0]);
  }' || fail "a value of a regression was cut"

# A task.json of another adapter.
cp -r run/adapter wrong
cp values/adapter/task.json wrong/
expect 1 "wrong/task.json" "regression" "delete it, or copy it again" -- "$MSPLORA" predict --adapter wrong --data new.csv
head -c 100 run/adapter/task.json > wrong/task.json
expect 1 "wrong/task.json: the file is cut short: it ends at byte 100" -- "$MSPLORA" predict --adapter wrong --data new.csv

# Tables of runs.
expect 2 "--metric: run has no \`acuracy\`; it has accuracy" "did you mean \`accuracy\`" -- "$MSPLORA" results run --metric acuracy
expect 0 "| values | regression" "| run " "mae (test)" -- "$MSPLORA" results run values
grep -q "^part,prediction,target,predicted label,label$" run/test.csv || fail "no names in test.csv"
grep -Eq "^test,[01],1,(positive|negative),positive$" run/test.csv || { head -3 run/test.csv >&2; fail "names in test.csv"; }
