#!/usr/bin/env bash
# Makes an English text corpus for pretraining a small masked language model, out of text that Debian 12 packages carry.
# Usage: make-corpus.sh [OUTPUT_DIR=build/corpus]
# Writes OUTPUT_DIR/train.txt, heldout.txt (1 %, chosen by hash) and sources.tsv; one paragraph or group of sentences
# per line, UTF-8, no line twice, in an order that depends on nothing but the text.
#
# Needs a Debian 12 with apt, dpkg, perl and the network; neither root nor any installation: the packages listed in
# corpus/sources.txt are downloaded and unpacked below OUTPUT_DIR/work, which can be deleted afterwards (about 4 GB).
# A package that cannot be had is reported and left out. Descriptions of Debian packages are part of the corpus, except
# those in the validation and test splits of the demo task (see package-descriptions.sh).
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
output=${1:-build/corpus}
work=$output/work
mkdir -p "$work"/{debs,raw,clean,lists/partial,cache/archives/partial,files}
output=$(cd "$output" && pwd)
work=$output/work

say() { printf '%s\n' "$*" >&2; }
trim() { local s=$1; s=${s#"${s%%[![:space:]]*}"}; printf '%s' "${s%"${s##*[![:space:]]}"}"; }

apt_options=(-o Acquire::Languages=en -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
             -o Debug::NoLocking=1)
# The sandbox user could not write below a private directory.
if [ "$(id -u)" = 0 ]; then apt_options+=(-o APT::Sandbox::User=root); fi

# apt's lists with English long descriptions; the machine's own lists, often without them, if there is no network.
lists=$work/lists
if ! apt-get "${apt_options[@]}" -qq update || ! ls "$lists"/*_Packages* > /dev/null 2>&1; then
  say "make-corpus: cannot fetch package lists, using the machine's own"
  lists=/var/lib/apt/lists
  apt_options=(-o "Dir::Cache=$work/cache")
fi

# Reads paragraphs, writes clean lines without repetitions, at most $1 MB of them, chosen by hash.
clean_and_cap() {
  perl "$here/corpus/clean.pl" | perl -MDigest::MD5=md5 -e '
    my ($limit, %seen, @line) = (shift() * 1e6);
    while (my $line = <STDIN>) { my $key = md5($line); push @line, [$key, $line] if !$seen{$key}++; }
    my $total = 0;
    for (sort { $a->[0] cmp $b->[0] } @line) { last if ($total += length $_->[1]) > $limit; print $_->[1]; }' "$1"
}

newest_deb() { ls "$work/debs/${1}"_*.deb 2> /dev/null | tail -n 1 || true; }

# Unpacks one package and writes its clean text to clean/PACKAGE.txt.
read_package() {
  local package=$1 format=$2 cap=$3 globs=$4 deb dir clean row
  deb=$(newest_deb "$package")
  dir=$work/files/$package
  clean=$work/clean/$package
  # Kept from an earlier run, unless the package, its row or the readers have changed since.
  row="$(basename "$deb") $format $cap $globs"
  if [ -s "$clean.txt" ] && [ "$(cat "$clean.row" 2> /dev/null)" = "$row" ] &&
     [ "$clean.txt" -nt "$here/corpus/extract.pl" ] && [ "$clean.txt" -nt "$here/corpus/clean.pl" ]; then
    return 0
  fi
  rm -rf "$dir" && mkdir -p "$dir"
  set -f
  # shellcheck disable=SC2086  # the globs are meant to be words
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --no-same-owner --wildcards $globs 2> "$clean.log" || true
  set +f
  find "$dir" -type f | sort | perl "$here/corpus/extract.pl" "$format" > "$work/raw/$package.txt"
  clean_and_cap "$cap" < "$work/raw/$package.txt" > "$clean.part"
  mv "$clean.part" "$clean.txt"
  printf '%s' "$row" > "$clean.row"
  dpkg-deb -f "$deb" Version > "$clean.version"
  rm -rf "$dir"
  if [ ! -s "$clean.txt" ]; then say "make-corpus: $package: no text found"; fi
}

names=()
declare -A licences
while IFS='|' read -r package licence format cap globs _; do
  package=$(trim "$package")
  case $package in ''|'#'*) continue ;; esac
  if [ -z "$(newest_deb "$package")" ]; then
    (cd "$work/debs" && apt-get "${apt_options[@]}" -qq download "$package") 2> "$work/download.log" || true
  fi
  if [ -z "$(newest_deb "$package")" ]; then
    say "make-corpus: $package: cannot be downloaded, left out"
    continue
  fi
  say "make-corpus: $package"
  names+=("$package")
  licences[$package]=$(trim "$licence")
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
  read_package "$package" "$(trim "$format")" "$(trim "$cap")" "$(trim "$globs")" &
done < "$here/corpus/sources.txt"
while [ "$(jobs -p | wc -l)" -gt 0 ]; do wait -n; done

say "make-corpus: package descriptions"
names+=(package-descriptions)
licences[package-descriptions]="as the packages"
# A paragraph that a held-out package has too, as siblings from another source often do, stays out with it.
"$here/package-descriptions.sh" "$lists" > "$work/descriptions.tsv"
awk -F '\t' '
  { n = split($6, part, / \| /); part[++n] = $5 }
  NR == FNR { if ($1 != "train") for (i = 1; i <= n; i++) held[part[i]] = 1; next }
  $1 == "train" { for (i = 1; i <= n; i++) if (!(part[i] in held)) print part[i] (i == n ? "." : "") }
  ' "$work/descriptions.tsv" "$work/descriptions.tsv" > "$work/raw/package-descriptions.txt"
clean_and_cap 30 < "$work/raw/package-descriptions.txt" > "$work/clean/package-descriptions.txt"
date -u +%Y-%m-%d > "$work/clean/package-descriptions.version"

# Across sources a line counts as seen if its letters agree. The order is that of the hash of the line.
: > "$work/all.tsv"
for name in "${names[@]}"; do
  [ -e "$work/clean/$name.txt" ] || continue
  NAME=$name perl -pe 's/^/$ENV{NAME}\t/' "$work/clean/$name.txt"
done | perl -MDigest::MD5=md5,md5_hex -ne '
  my ($name, $text) = split /\t/, $_, 2;
  my $letters = lc $text;
  $letters =~ tr/a-z//cd;
  next if $seen{md5($letters)}++;
  print md5_hex($text), "\t", $_;' | sort -S 512M > "$work/all.tsv"
awk -F '\t' -v train="$work/train.part" -v heldout="$work/heldout.part" '
  { print $3 > (substr($1, 31, 2) ~ /^(00|55|aa)$/ ? heldout : train) }' "$work/all.tsv"
mv "$work/train.part" "$output/train.txt"
mv "$work/heldout.part" "$output/heldout.txt"

printf 'source\tversion\tlicence\tlines\tbytes\n' > "$output/sources.tsv"
awk -F '\t' '{ lines[$2]++; bytes[$2] += length($3) + 1 } END { for (s in lines) print s "\t" lines[s] "\t" bytes[s] }' \
  "$work/all.tsv" | sort > "$work/sizes.tsv"
for name in "${names[@]}"; do
  size=$(awk -F '\t' -v name="$name" '$1 == name { print $2 "\t" $3 }' "$work/sizes.tsv")
  [ -n "$size" ] || continue
  printf '%s\t%s\t%s\t%s\n' "$name" "$(cat "$work/clean/$name.version")" "${licences[$name]}" "$size"
done >> "$output/sources.tsv"
cat "$output/sources.tsv"
wc -lc "$output/train.txt" "$output/heldout.txt"
