#!/usr/bin/env bash
# Prints what apt's lists say of every Debian package, a stanza each.
# Usage: package-stanzas.sh [--check] [LISTS_DIR]   (default: the machine's own lists; --check: only says whether there are any)
set -euo pipefail

check=
if [ "${1:-}" = --check ]; then check=1 && shift; fi
options=(-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Default-Release=)
if [ -n "${1:-}" ]; then options+=(-o "Dir::State::Lists=$1"); fi

if [ -z "$check" ]; then exec apt-cache "${options[@]}" dumpavail; fi
if [ -z "$(apt-cache "${options[@]}" dumpavail 2> /dev/null | head -c 1)" ]; then
  echo "package-stanzas: apt has no package lists ${1:+in }${1:-on this machine; run 'apt-get update' as root first}" >&2
  exit 1
fi
