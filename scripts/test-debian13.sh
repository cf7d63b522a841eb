#!/usr/bin/env bash
# Runs README's two commands, `make demo` and `make test`, on a bare Debian 13: debootstrap makes one in a folder, a clean
# clone of what is committed here goes into it, and the commands install what they need. As root, on Debian, with network.
# Usage: test-debian13.sh [--keep] [FOLDER [COMMAND]]     (FOLDER: build/debian13; COMMAND: make demo && make test)
#   --keep   use the Debian that is in FOLDER, with what was installed into it, instead of making a new one
# FOLDER/root is the system; FOLDER/cache holds downloaded packages and ccache for the next time.
# All mounts lie in a namespace of their own, which ends with this script, however it ends.
set -euo pipefail

fail() {
  echo "test-debian13: $*" >&2
  exit 1
}

if [ -z "${MSPLORA_OWN_NAMESPACE:-}" ]; then
  [ "$(id -u)" = 0 ] || fail "making a Debian needs root"
  exec env MSPLORA_OWN_NAMESPACE=yes unshare --mount --pid --fork --kill-child "$0" "$@"
fi

keep=false
if [ "${1:-}" = --keep ]; then
  keep=true
  shift
fi
case "${1:-}" in -*) fail "unknown option '$1'; usage: test-debian13.sh [--keep] [FOLDER [COMMAND]]" ;; esac
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$repository/build/debian13}
command=${2:-make demo && make test}
mkdir -p "$folder/cache/archives" "$folder/cache/ccache"
folder=$(cd "$folder" && pwd)
root=$folder/root

command -v debootstrap > /dev/null || fail "debootstrap is missing: apt-get update && apt-get install debootstrap"
if [ -n "$(git -C "$repository" status --porcelain --untracked-files=no)" ]; then
  echo "test-debian13: note: changes that are not committed are not tested" >&2
fi

# What this machine needs to reach packages, its new Debian needs too.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" { print $2; exit }')
make_debian() {
  if [ -e "$root" ] && [ ! -e "$folder/made-by-test-debian13" ]; then
    fail "$root exists and was not made by this script; name another folder"
  fi
  touch "$folder/made-by-test-debian13"
  rm -rf --one-file-system "$root"
  echo "== a bare Debian 13 in $root"
  debootstrap --variant=minbase --include=ca-certificates,git,make --cache-dir="$folder/cache/archives" \
    trixie "$root" $mirror > "$folder/debootstrap.txt" 2>&1 ||
    { tail -n 20 "$folder/debootstrap.txt" >&2; fail "debootstrap failed; all it said is in $folder/debootstrap.txt"; }
  apt-config dump | grep -E '^Acquire::(http|https|Check-Valid-Until|Check-Date)\b' > "$root/etc/apt/apt.conf.d/90host" || true
  if [ -e /etc/resolv.conf ]; then cp -L /etc/resolv.conf "$root/etc/resolv.conf"; fi
}
if $keep; then
  [ -x "$root/usr/bin/make" ] || fail "--keep: there is no Debian in $root yet; leave --keep out the first time"
else
  make_debian
fi

rm -rf --one-file-system "$root/root/msplora"
git clone --quiet "file://$repository" "$root/root/msplora"

mkdir -p "$root/cache"
mount --bind "$folder/cache" "$root/cache"
mount --bind "$folder/cache/archives" "$root/var/cache/apt/archives"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"

echo "== $(git -C "$repository" log -1 --format='%h %s'): $command"
status=0
env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb \
  CCACHE_DIR=/cache/ccache ${JOBS:+JOBS="$JOBS"} \
  chroot "$root" bash -euc "cd /root/msplora; $command" || status=$?
[ "$status" = 0 ] || fail "'$command' failed on Debian 13 (exit code $status); look around with: chroot $root"
echo "test-debian13: passed: $command"
