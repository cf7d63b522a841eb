#!/usr/bin/env bash
# Makes the data of the chat demo from this machine's apt lists: what the fields of a Debian package say, as one line in a
# format of its own. Usage: make-chat-data.sh OUTPUT_DIR [LISTS_DIR]
# Writes OUTPUT_DIR/{train,validation,test}.jsonl.gz with rows {"prompt": ..., "completion": ...}:
#
#   package: 0ad                                 games: large program, many needs
#   section: games                      ->
#   size: 28591
#   needs: 22
#
# The line has the section, how large the package is (tiny below 100 kB, small below 1 MB, medium below 10 MB, large),
# what it is by its name (documentation, data, development files, module, library, program) and how many other
# packages it depends on (no, one, few: 2 to 5, many). Nothing of the format stands in the prompt. The source package
# decides the split, so that packages built from one source never lie on both sides.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
output=${1:?usage: make-chat-data.sh OUTPUT_DIR [LISTS_DIR]}
mkdir -p "$output"

"$here/package-stanzas.sh" --check ${2:+"$2"}
"$here/package-stanzas.sh" ${2:+"$2"} | perl -MDigest::MD5=md5_hex -e '
  use strict; use warnings;
  my $output = shift;
  my %most = (train => 4000, validation => 200, test => 200);
  my (%row_of, %split_of);
  local $/ = "";
  while (my $stanza = <STDIN>) {
    my %field;
    $field{$1} = $2 while $stanza =~ /^(Package|Source|Section|Installed-Size|Depends): (.*)$/gm;
    my ($name, $section, $size) = @field{"Package", "Section", "Installed-Size"};
    next if !defined $name || !defined $section || !defined $size || $size !~ /^\d+$/ || $row_of{$name};
    $section =~ s{.*/}{};
    next if "$name$section" =~ /[^a-z0-9.+-]/ || $section eq "debug";
    my @needs = split /,/, $field{Depends} // "";
    my $large = $size < 100 ? "tiny" : $size < 1000 ? "small" : $size < 10000 ? "medium" : "large";
    my $kind = $name =~ /-doc$/ ? "documentation" : $name =~ /-(data|common)$/ ? "data"
        : $name =~ /-dev$/ ? "development files"
        : $name =~ /^(python3|ruby|node|golang|php|r-cran)-|-perl$/ ? "module"
        : $name =~ /^lib/ ? "library" : "program";
    my $many = @needs == 0 ? "no needs" : @needs == 1 ? "one need" : @needs <= 5 ? "few needs" : "many needs";
    my $source = $field{Source} // $name;
    $source =~ s/ .*//;
    my $bucket = hex substr(md5_hex($source), 0, 2);
    $split_of{$name} = $bucket < 40 ? "test" : $bucket < 60 ? "validation" : "train";
    my $prompt = "package: $name\\nsection: $section\\nsize: $size\\nneeds: " . scalar(@needs) . "\\n";
    $row_of{$name} = "{\"prompt\": \"$prompt\", \"completion\": \"$section: $large $kind, $many\"}\n";
  }
  my (%rows, %count);
  for my $name (map { $_->[1] } sort { $a->[0] cmp $b->[0] } map { [md5_hex("order:$_"), $_] } keys %row_of) {
    my $split = $split_of{$name};
    $rows{$split} .= $row_of{$name} if $count{$split}++ < $most{$split};
  }
  for my $split (qw(train validation test)) {
    my $file = "$output/$split.jsonl.gz";
    open(my $out, "|-", "gzip -n > \Q$file.part\E") or die "make-chat-data: $file: $!\n";
    print $out $rows{$split} // "";
    close $out or die "make-chat-data: $file: $!\n";
    rename "$file.part", $file or die "make-chat-data: $file: $!\n";
    my $of = $count{$split} // 0;
    printf "%-10s %5d of %5d packages\n", $split, $of < $most{$split} ? $of : $most{$split}, $of;
  }' "$output"
