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
