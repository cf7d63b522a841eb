# Helpers of the end-to-end tests. Every test works in its own folder below $CLI_WORK.
set -euo pipefail
: "${MSPLORA:?path of the program}" "${CLI_WORK:?folder to work in}"

name=$(basename "$0" .sh)
here=$CLI_WORK/$name
rm -rf "$here"
mkdir -p "$here"
cd "$here"
model=$CLI_WORK/setup/model
data=$CLI_WORK/setup

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect CODE [PATTERN...] -- COMMAND...: the exit code, and fixed text that must stand in what it prints.
expect() {
  local code=$1 status=0 patterns=()
  shift
  while [ "$1" != "--" ]; do
    patterns+=("$1")
    shift
  done
  shift
  "$@" > out.txt 2> err.txt || status=$?
  cat out.txt err.txt > both.txt
  if [ "$status" != "$code" ]; then
    cat both.txt >&2
    fail "expected exit code $code, got $status: $*"
  fi
  local pattern
  for pattern in "${patterns[@]}"; do
    if ! grep -qF -- "$pattern" both.txt; then
      cat both.txt >&2
      fail "expected \`$pattern\` in the output of: $*"
    fi
  done
}

# Every line of FILE is an object as --log-format json writes it.
expect_json_lines() { # FILE
  perl -MJSON::PP -ne '
    my $line = eval { decode_json($_) };
    exit 1 unless ref $line && $line->{time} =~ /^20/ && $line->{level} && defined $line->{message};
  ' "$1" || { cat "$1" >&2; fail "not JSON lines: $1"; }
}

# A usual recipe of a short run; arguments are appended as they are.
recipe() {
  cat << YAML
model: {path: $model}
data: {train: $data/train.tsv, validation: $data/dev.tsv, test: $data/test.tsv, text: sentence, label: label, max_length: 32}
adapter: {method: msplora, rank: 8, levels: 3, target_modules: [query, value]}
train: {epochs: 4, batch_size: 32, lr: 1.0e-2, seed: 7, threads: 1, log_every: 5}
output: {dir: run, tensorboard: false}
YAML
}

# The value of a key in one-line or indented JSON.
json_number() { # FILE KEY
  sed -n "s/.*\"$2\": \(-\{0,1\}[0-9.e+-]*\),\{0,1\}\$/\1/p" "$1" | head -1
}
