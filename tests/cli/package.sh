# An installed library, found by find_package, gives a program that predicts what `msplora predict` does.
. "$(dirname "$0")/lib.sh"

"$CMAKE" --install "$BUILD_DIR" --prefix "$here/prefix" > install.txt 2>&1 || { cat install.txt >&2; fail "install"; }
for file in LICENSE docs/quickstart.md recipes models/msplora-base-mini/model.safetensors; do
  [ -e "prefix/share/msplora/$file" ] || fail "$file is not installed"
done
expect 0 -- prefix/bin/msplora --version
"$CMAKE" -S "$SOURCE_DIR/examples/embed" -B build -DCMAKE_PREFIX_PATH="$here/prefix" -DCMAKE_CXX_COMPILER="$CXX" \
  -DTorch_DIR="$TORCH_DIR" -DCMAKE_BUILD_TYPE=Debug > configure.txt 2>&1 || { cat configure.txt >&2; fail "configure"; }
"$CMAKE" --build build > build.txt 2>&1 || { cat build.txt >&2; fail "build"; }

recipe > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml --set train.max_steps=20
expect 0 -- build/embed "$model" run/adapter-native "the film was lovely" "the meal looked dull and poor"
cut -f 1,3 out.txt > embed.txt
cut -f 3 out.txt | "$MSPLORA" predict --model "$model" --adapter run/adapter-native | tail -n +2 | cut -f 1 > labels.txt
paste labels.txt <(cut -f 3 out.txt) | diff -u - embed.txt || fail "embed and predict differ"
expect 1 "embed: error:" -- build/embed nowhere run/adapter-native text
