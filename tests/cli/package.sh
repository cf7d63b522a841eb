# An installed library, found by find_package, gives programs that train and predict as `msplora` does.
. "$(dirname "$0")/lib.sh"

"$CMAKE" --install "$BUILD_DIR" --prefix "$here/prefix" > install.txt 2>&1 || { cat install.txt >&2; fail "install"; }
for file in LICENSE docs/quickstart.md recipes models/msplora-base-mini/model.safetensors; do
  [ -e "prefix/share/msplora/$file" ] || fail "$file is not installed"
done
expect 0 -- prefix/bin/msplora --version
for example in background embed finetune generate; do
  "$CMAKE" -S "$SOURCE_DIR/examples/$example" -B build/$example -DCMAKE_PREFIX_PATH="$here/prefix" -DCMAKE_CXX_COMPILER="$CXX" \
    -DTorch_DIR="$TORCH_DIR" -DCMAKE_BUILD_TYPE=Debug > configure.txt 2>&1 || { cat configure.txt >&2; fail "configure"; }
  "$CMAKE" --build build/$example > build.txt 2>&1 || { cat build.txt >&2; fail "build"; }
done

# The part without libtorch, where there is none.
mkdir base
cat > base/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(base LANGUAGES CXX)
find_package(msplora REQUIRED COMPONENTS base)
add_executable(base main.cc)
target_link_libraries(base PRIVATE msplora::base)
END
cat > base/main.cc <<'END'
#include <cstdio>

#include "msplora/tokenizers/tokenizer.h"
int main(int, char** arguments) {
  std::printf("%zu ids\n", msplora::Tokenizer::load(arguments[1])->encode({"some text", {}}).ids.size());
}
END
"$CMAKE" -S base -B build/base -DCMAKE_PREFIX_PATH="$here/prefix" -DCMAKE_CXX_COMPILER="$CXX" \
  -DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON > configure.txt 2>&1 || { cat configure.txt >&2; fail "configure the base alone"; }
"$CMAKE" --build build/base > build.txt 2>&1 || { cat build.txt >&2; fail "build the base alone"; }
expect 0 " ids" -- build/base/base "$model"

recipe > recipe.yaml
expect 0 -- "$MSPLORA" train recipe.yaml --set train.max_steps=20
expect 0 -- build/embed/embed "$model" run/adapter-native "the film was lovely" "the meal looked dull and poor"
cut -f 1,3 out.txt > embed.txt
cut -f 3 out.txt | "$MSPLORA" predict --model "$model" --adapter run/adapter-native | tail -n +2 | cut -f 1 > labels.txt
paste labels.txt <(cut -f 3 out.txt) | diff -u - embed.txt || fail "embed and predict differ"
expect 1 "embed: error:" -- build/embed/embed nowhere run/adapter-native text

# Training through the library: the files of a run, and predictions that the program gives too.
[ "$(wc -l < "$SOURCE_DIR/examples/finetune/main.cc")" -lt 50 ] || fail "the example has grown"
expect 0 "accuracy" "trained numbers, saved in own/adapter" -- \
  build/finetune/finetune "$model" "$data/train.tsv" own "the film was lovely" "the meal looked dull and poor"
for file in recipe.yaml metrics.json adapter/task.json adapter-native/adapter.safetensors; do
  [ -s "own/$file" ] || fail "the example did not write $file"
done
tail -n 2 out.txt | cut -f 1,3 > own.txt
cut -f 2 own.txt | "$MSPLORA" predict --model "$model" --adapter own/adapter | tail -n +2 | cut -f 1 > labels.txt
paste labels.txt <(cut -f 2 own.txt) | diff -u - own.txt || fail "finetune and predict differ"
expect 1 "finetune: error:" "not empty" -- build/finetune/finetune "$model" "$data/train.tsv" own
# A training that is asked to stop, and goes on when it is called again.
expect 0 "stopped: " "[!] --resume: there is no run in later" -- build/background/background "$model" "$data/train.tsv" later 0
[ ! -e later/metrics.json ] || fail "the example was not stopped"
expect 0 "done after" -- build/background/background "$model" "$data/train.tsv" later 3600
[ ! -s err.txt ] || fail "the log of the library reached standard error"
expect 1 "background: error:" -- build/background/background nowhere "$data/train.tsv" never 1
expect 1 "generate: error:" "nowhere" -- build/generate/generate nowhere - text
