# Damaged and unfit models and adapters: a clear error, the right exit code, nothing written.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
train() { "$MSPLORA" train recipe.yaml --set model.path=bad --set output.dir=out "$@"; }
fresh() {
  rm -rf bad out
  cp -r "$model" bad
}
# Header of a safetensors file: perl code that changes $header (and $data) in place.
edit() {
  perl -e '
    my ($file, $code) = @ARGV;
    open(my $in, "<:raw", $file) or die; local $/; my $all = <$in>; close $in;
    my $length = unpack("Q<", $all);
    our ($header, $data) = (substr($all, 8, $length), substr($all, 8 + $length));
    eval $code; die $@ if $@;
    open(my $out, ">:raw", $file) or die;
    print $out pack("Q<", length $header), $header, $data;
  ' "$1" "$2"
}

fresh
truncate -s -100 bad/model.safetensors
expect 1 "bad/model.safetensors" "truncated" -- train
fresh
edit bad/model.safetensors '$header =~ s/"data_offsets":\[(\d+),(\d+)\]/"data_offsets":[0,4]/ for 1'
expect 1 "bad/model.safetensors" "data_offsets" -- train
fresh
perl -e 'open(my $f, "+<:raw", "bad/model.safetensors"); print $f pack("Q<", 2 ** 60);'
expect 1 "bad/model.safetensors" "header" -- train
fresh
edit bad/model.safetensors '$header =~ s/"shape":\[/"shape":[7,/'
expect 1 "bad/model.safetensors" "expected" -- train
fresh
edit bad/model.safetensors 'substr($data, 0, 4) = pack("V", 0x7fc00000)'
expect 1 "bad" "NaN" -- train
fresh
mv bad/model.safetensors bad/pytorch_model.bin
expect 1 "pytorch_model.bin" "safe_serialization=True" -- train
fresh
rm bad/model.safetensors
echo '{"weight_map": {"bert.embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}' \
  > bad/model.safetensors.index.json
expect 1 "model-00001-of-00002.safetensors" "missing" -- train
fresh
sed -i 's/"model_type": *"bert"/"model_type": "bort"/' bad/config.json
expect 1 "bad/config.json" "bort" "did you mean \`bert\`?" -- train
fresh
sed -i 's/"hidden_size": *32/"hidden_size": 64/' bad/config.json
expect 1 "bad" "expected [" "found [" -- train
fresh
echo '{' > bad/config.json
expect 1 "bad/config.json" -- train
expect 1 "nowhere" -- "$MSPLORA" train recipe.yaml --set model.path=nowhere
[ ! -e out/adapter ] || fail "a failed run left an adapter"

# What does not fit the model: all of it is found by validate too.
expect 2 "quary" "nearest to" "query" "[32, 32]" -- \
  "$MSPLORA" train recipe.yaml --set "adapter.target_modules=[quary]"
expect 2 "rank" "100" "32" -- "$MSPLORA" train recipe.yaml --set adapter.rank=100
expect 2 "quary" -- "$MSPLORA" validate recipe.yaml --set "adapter.target_modules=[quary]"
[ ! -e run/adapter ] || fail "a failed run left an adapter"
rm -rf run

# An adapter of another base: same shape, other weights.
expect 0 -- "$MSPLORA" train recipe.yaml --set train.max_steps=2
fresh
edit bad/model.safetensors 'for (my $i = 1; $i < length $data; $i += 2) { substr($data, $i, 1) ^= "\x02" }'
expect 1 "run/adapter-native" "another base" -- \
  "$MSPLORA" eval --model bad --adapter run/adapter-native --data "$data/test.tsv"
expect 1 "run/adapter-native" -- \
  "$MSPLORA" merge --model bad --adapter run/adapter-native --output merged
[ ! -e merged/model.safetensors ] || fail "a failed merge left a model"
fresh
truncate -s -10 run/adapter/adapter_model.safetensors
expect 1 "run/adapter/adapter_model.safetensors" -- \
  "$MSPLORA" predict --model "$model" --adapter run/adapter --data "$data/test.tsv"
expect 1 "no trained head" "--adapter" -- "$MSPLORA" eval --model "$model" --data "$data/test.tsv"
expect 1 "holds no adapter" -- "$MSPLORA" eval --model "$model" --adapter "$model" --data "$data/test.tsv"

# Directories that exist.
expect 2 "run" "not empty" "--resume" "--overwrite" -- "$MSPLORA" train recipe.yaml
cp run/metrics.json before.json
expect 2 "run/adapter-native, which is read, lies in run" -- "$MSPLORA" merge --model "$model" --adapter run/adapter-native --output run
mkdir full && touch full/file
expect 1 "not empty" -- "$MSPLORA" merge --model "$model" --adapter run/adapter-native --output full
expect 2 "is read by this command too" -- \
  "$MSPLORA" merge --model "$model" --adapter run/adapter-native --output "$model" --overwrite
cmp run/metrics.json before.json
