#!/usr/bin/env bash
# Prints one line for each Debian package in apt's lists: split, section, source, package, short description and long
# description, separated by tabs (paragraphs of the long description by " | "; empty where apt has no translations).
# Usage: package-descriptions.sh [LISTS_DIR]   (default: the machine's own lists)
#
# The split (train, validation, test) depends on nothing but the name of the source package, so all packages built
# from one source fall into the same split, on every machine. make-demo-data.sh and make-corpus.sh both rely on this.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lists=${1:-/var/lib/apt/lists}

{
  for file in "$lists"/*_i18n_Translation-en*; do
    [ -e "$file" ] && /usr/lib/apt/apt-helper cat-file "$file"
    echo
  done
  echo "=packages="
  "$here/package-stanzas.sh" ${1:+"$1"}
} | perl -MDigest::MD5=md5_hex -e '
  use strict; use warnings;
  sub split_of {
    my $bucket = hex substr(md5_hex($_[0]), 0, 2);
    return $bucket < 40 ? "test" : $bucket < 60 ? "validation" : "train";
  }
  my (%long, %done, $in_packages);
  local $/ = "";
  while (my $stanza = <STDIN>) {
    if ($stanza =~ s/^=packages=\n//m) { $in_packages = 1; }
    if (!$in_packages) {
      next unless $stanza =~ /^Description-md5: (\S+)$/m;
      my $md5 = $1;
      next unless $stanza =~ /^Description-en: .*\n((?: .*\n?)*)/m;
      my $text = $1;
      # Lines that begin with one space are flowing text; more spaces are lists or displays, lines of their own.
      $text =~ s/^ \.$/ | /gm;
      $text =~ s/^ +(?=[*+o-] )/ | /gm;
      $text =~ s/\s+/ /g;
      $text =~ s/^[ |]+|[ |]+$//g;
      $text =~ s/( \|)+ /" | "/ge;
      $text =~ s/" \| "/ | /g;
      $long{$md5} = $text;
      next;
    }
    my %field;
    $field{$1} = $2 while $stanza =~ /^(Package|Source|Section|Description|Description-en|Description-md5): (.*)$/gm;
    my $short = $field{Description} // $field{"Description-en"};
    next if !defined $short || !defined $field{Package} || $done{$field{Package}}++;
    my $source = $field{Source} // $field{Package};
    $source =~ s/ .*//;
    my $section = $field{Section} // "unknown";
    $section =~ s{.*/}{};
    my $text = $long{$field{"Description-md5"} // ""} // "";
    s/[\t\r\n]+/ /g for $short, $text;
    print join("\t", split_of($source), $section, $source, $field{Package}, $short, $text), "\n";
  }' | LC_ALL=C sort -t "$(printf '\t')" -k4,4
