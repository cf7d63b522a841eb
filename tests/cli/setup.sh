# Makes the tiny model of the other tests with the program itself: a vocabulary, then a few steps of pretraining.
. "$(dirname "$0")/lib.sh"

perl -e '
  my @good = qw(fine lovely bright superb charming);
  my @bad = qw(awful dull broken dreary poor);
  my @things = qw(film book song meal play walk day);
  my @verbs = qw(was seemed felt looked sounded);
  my $seed = 1;
  sub pick { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $_[($seed >> 8) % @_]; }
  sub row {
    my $class = pick(0, 1, 1, 0);
    my @words = $class ? @good : @bad;
    my $text = "the " . pick(@things) . " " . pick(@verbs) . " " . pick(@words);
    $text .= " and " . pick(@words) if pick(0, 1);
    return ($text, $class ? "positive" : "negative");
  }
  for my $part (["train", 320], ["dev", 64], ["test", 64]) {
    open(my $out, ">", "$part->[0].tsv") or die;
    print $out "sentence\tlabel\n";
    print $out join("\t", row()), "\n" for 1 .. $part->[1];
  }
'
cut -f 1 train.tsv | tail -n +2 > text.txt
mkdir shape
cat > shape/config.json << 'JSON'
{"model_type": "bert", "vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
 "intermediate_size": 64, "max_position_embeddings": 40, "type_vocab_size": 2, "pad_token_id": 0,
 "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.1}
JSON
expect 0 "with" -- "$MSPLORA" tokenize --train --vocab-size 160 --output shape text.txt
cat > pretrain.yaml << YAML
model: {path: shape, random_init: true}
data: {train: [text.txt], validation: [text.txt], max_length: 24}
train: {max_steps: 60, batch_size: 32, lr: 3.0e-3, warmup_ratio: 0.1, seed: 3, threads: 1, log_every: 20}
output: {dir: pretrain, tensorboard: false}
YAML
expect 0 "all parameters" "pretrain/model" -- "$MSPLORA" pretrain pretrain.yaml
for file in config.json model.safetensors tokenizer.json tokenizer_config.json; do
  [ -s pretrain/model/$file ] || fail "pretrain did not write $file"
done
# The loss must have fallen well below that of guessing: ln(160) is 5.08.
loss=$(json_number pretrain/metrics.json last_loss)
perl -e 'exit($ARGV[0] < 4.0 ? 0 : 1)' "$loss" || fail "pretraining ended with a loss of $loss"

# Interrupted by stop_at and resumed, pretraining ends with the same bits.
expect 0 "paused after step 30" -- "$MSPLORA" pretrain pretrain.yaml --set output.dir=again --set train.stop_at=30
expect 0 -- "$MSPLORA" pretrain pretrain.yaml --set output.dir=again --resume
cmp pretrain/model/model.safetensors again/model/model.safetensors
expect 0 -- "$MSPLORA" pretrain pretrain.yaml --set output.dir=again --overwrite --save-dtype bfloat16
[ "$(stat -c %s again/model/model.safetensors)" -lt "$(stat -c %s pretrain/model/model.safetensors)" ] ||
  fail "bfloat16 weights are not smaller"
cp -r pretrain/model model
