# A disk without room: the error names the file, no half-written file stays, and what was there still works.
. "$(dirname "$0")/lib.sh"

recipe > recipe.yaml
steps=(--set train.max_steps=40 --set train.save_every=10)
expect 0 -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=whole

# No file may grow beyond 4 KiB; with the signal ignored, the write itself fails.
limited() { (trap '' XFSZ; ulimit -f 4; exec "$@") }
no_leftovers() {
  local left
  left=$(find "$1" -name '*.tmp-*' -o -name '.checkpoint*' 2> /dev/null)
  [ -z "$left" ] || fail "left behind: $left"
}

expect 1 "merged" -- limited "$MSPLORA" merge --model "$model" --adapter whole/adapter-native --output merged
[ ! -e merged ] || fail "a failed merge left its directory"
mkdir merged && touch merged/mine
expect 1 "merged" -- limited "$MSPLORA" merge --model "$model" --adapter whole/adapter-native --output merged --overwrite
[ -e merged/mine ] && [ ! -e merged/model.safetensors ] || fail "a failed merge took files of others, or left a part"
no_leftovers merged

expect 0 "paused" -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=run --set train.stop_at=10
expect 1 "run/" -- limited "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=run --resume
[ ! -e run/adapter ] || fail "a failed run left an adapter"
expect 0 "resumed from run/checkpoint-10" -- "$MSPLORA" train recipe.yaml "${steps[@]}" --set output.dir=run --resume
no_leftovers run
cmp whole/adapter/adapter_model.safetensors run/adapter/adapter_model.safetensors

[ -e /dev/full ] || exit 0
status=0
echo "the film was dull" | "$MSPLORA" predict --model "$model" --adapter whole/adapter > /dev/full 2> err.txt || status=$?
[ $status = 1 ] && grep -q "standard output" err.txt || fail "a full standard output went unnoticed ($status)"

# The real thing where file systems may be mounted.
mkdir small
if mount -t tmpfs -o size=64k tmpfs small 2> /dev/null; then
  trap 'umount "$here/small"' EXIT
  expect 1 "small/merged" "No space left" "disk is full" -- \
    "$MSPLORA" merge --model "$model" --adapter whole/adapter-native --output small/merged
  no_leftovers small
fi
