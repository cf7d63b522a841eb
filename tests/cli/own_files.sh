# A run never replaces what it reads, nor results that no run has written.
. "$(dirname "$0")/lib.sh"

kept() { # CODE FOLDER: as it was before
  diff -r "$1" "$2" || fail "a refused command changed $1"
}
mkdir mine && cp "$data/train.tsv" "$data/dev.tsv" mine/ && cp "$data/test.tsv" mine/test.csv
usual="{train: mine/train.tsv, validation: mine/dev.tsv, test: mine/test.csv, format: tsv, text: sentence, label: label}"
cat > mine/recipe.yaml << YAML
model: {path: $model}
data: $usual
adapter: {method: lora, rank: 2, target_modules: [query]}
train: {max_steps: 2, threads: 1}
output: {dir: mine, tensorboard: false}
YAML
cat > mine/pretrain.yaml << YAML
model: {path: $model}
data: {train: [mine/train.tsv]}
train: {max_steps: 2, threads: 1}
output: {dir: mine, tensorboard: false}
YAML
cp -r mine before

# Data in output.dir, through any way to it.
ln -s mine linked
for command in train "train --resume" "federate --set federated.clients=2" "compare --methods lora --seeds 1 --set train.seed=42" \
  validate "validate --federate" "validate --compare" "data preview"; do
  expect 2 "output.dir: mine/train.tsv, which is read, lies in mine" -- "$MSPLORA" $command mine/recipe.yaml --overwrite
  expect 2 "which is read, lies in linked" -- "$MSPLORA" $command mine/recipe.yaml --set output.dir=linked --overwrite
done
for command in pretrain "validate --pretrain"; do
  expect 2 "output.dir: mine/train.tsv, which is read, lies in mine" -- "$MSPLORA" $command mine/pretrain.yaml --overwrite
done
kept mine before

# The recipe that somebody wrote in output.dir.
outside="--set data.train=$data/train.tsv --set data.validation=$data/dev.tsv --set data.test=null"
for command in train "train --resume" "compare --methods lora --seeds 1 --set train.seed=42" validate; do
  expect 2 "output.dir: mine/recipe.yaml is read by this command too" -- \
    "$MSPLORA" $command mine/recipe.yaml $outside --overwrite
done
kept mine before
# Results of somebody else: nothing is replaced without a run's recipe.yaml beside it.
rm mine/recipe.yaml && echo "{}" > mine/metrics.json && mkdir mine/model && touch mine/model/weights
rm -r before && cp -r mine before
recipe | sed 's/epochs: 4/max_steps: 2/' > recipe.yaml
for command in train "train --resume" "compare --methods lora --seeds 1 --set train.seed=42" "federate --set adapter.method=lora" validate; do
  expect 2 "no run wrote this directory" "would replace metrics.json, model, test.csv" "move them away" -- \
    "$MSPLORA" $command recipe.yaml --set output.dir=mine --overwrite
done
kept mine before

# Files beside which nothing is written may stay, and the recipe of a run trains it again.
mkdir notes && touch notes/readme.txt
expect 0 "--resume: there is no run in notes; a new one begins" -- "$MSPLORA" train recipe.yaml --set output.dir=notes --resume
expect 0 -- "$MSPLORA" train notes/recipe.yaml --overwrite
expect 0 "no problem found" -- "$MSPLORA" validate notes/recipe.yaml --overwrite
expect 0 -- "$MSPLORA" train notes/recipe.yaml --resume
! grep -q "there is no run" both.txt || fail "a run is not known again"
[ -e notes/readme.txt ] || fail "a file was removed"

# Where output.dir cannot be made.
touch file
for place in file file/below/it; do
  expect 2 "output.dir: $place" "file" -- "$MSPLORA" validate recipe.yaml --set output.dir=$place
done
if [ "$(id -u)" != 0 ]; then
  mkdir closed && chmod a-w closed
  expect 2 "output.dir: closed/run" "Permission denied" -- "$MSPLORA" validate recipe.yaml --set output.dir=closed/run
fi
