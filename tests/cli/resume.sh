# A run that is killed or interrupted and resumed ends with the bits of the uninterrupted one.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
steps=(--set train.max_steps=240 --set train.save_every=5 --set train.eval_every=60 --set adapter.dropout=0.1)
expect 0 -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=whole

same() {
  cmp "whole/adapter/adapter_model.safetensors" "$1/adapter/adapter_model.safetensors"
  cmp "whole/adapter-native/adapter.safetensors" "$1/adapter-native/adapter.safetensors"
}

# Starts a run, sends SIGNAL once it has a checkpoint, and returns its exit code in $status.
stop_with() { # SIGNAL DIRECTORY ARGUMENTS...
  local signal=$1 directory=$2 pid
  shift 2
  # Background jobs of a script ignore SIGINT; perl gives it back.
  perl -e '$SIG{INT} = "DEFAULT"; exec @ARGV' "$MSPLORA" train recipe.yaml "${steps[@]}" --set "output.dir=$directory" \
    "$@" > out.txt 2> err.txt &
  pid=$!
  until compgen -G "$directory/checkpoint-*" > /dev/null; do
    kill -0 $pid 2> /dev/null || { cat out.txt err.txt >&2; fail "the run ended before its first checkpoint"; }
    sleep 0.01
  done
  kill "-$signal" $pid
  status=0
  wait $pid || status=$?
}

stop_with KILL killed
[ $status = 137 ] || fail "expected the run to be killed, got exit code $status"
[ ! -e killed/adapter ] || fail "a killed run left an adapter"
expect 0 "resumed from killed/checkpoint-" -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=killed --resume
same killed

stop_with INT interrupted
[ $status = 130 ] || fail "expected exit code 130, got $status"
grep -qF "everything is saved in interrupted/checkpoint-" err.txt || fail "no word about the checkpoint"
grep -qF -- "--resume" err.txt || fail "no word about --resume"
expect 0 "resumed from" -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=interrupted --resume
same interrupted

# A closed terminal and `kill` are the same news, each with its own code.
for signal in TERM:143 HUP:129; do
  stop_with ${signal%:*} stopped
  [ $status = ${signal#*:} ] || fail "expected exit code ${signal#*:}, got $status"
  grep -qF "everything is saved in stopped/checkpoint-" err.txt || fail "no word about the checkpoint"
  rm -rf stopped
done

# Another length is another schedule; a refused resume changes nothing.
cp -r interrupted longer
expect 2 "train.max_steps" "stop_at" -- \
  "$MSPLORA" train recipe.yaml "${steps[@]}" --set train.max_steps=300 --set output.dir=longer --resume
diff -r interrupted longer > /dev/null || fail "a refused resume changed the run"
expect 0 "all 240 steps are done" -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=interrupted --resume

# N steps and N steps are 2 N steps.
expect 0 "paused after step 120 of 240" -- \
  "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=half --set train.stop_at=120
expect 0 -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=half --resume
same half
# Resuming what is finished changes nothing.
expect 0 -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=half --resume
same half

# A checkpoint of other options is refused, by name.
expect 2 "train.lr" "differs" -- \
  "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=half --set train.lr=1e-4 --resume

# One process at a time in a run directory.
recipe > busy.yaml
(exec "$MSPLORA" train busy.yaml --set train.max_steps=100000 --set output.dir=busy) > busy.txt 2>&1 &
pid=$!
while [ ! -s busy/metrics.jsonl ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
expect 1 "another process is writing" -- "$MSPLORA" train busy.yaml --set train.max_steps=100000 --set output.dir=busy --resume
kill -9 $pid
wait $pid || true
