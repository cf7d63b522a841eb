#!/usr/bin/env bash
# Makes the data of the demo task from this machine's apt lists: predict a Debian package's section from its description.
# Usage: make-demo-data.sh OUTPUT_DIR [LISTS_DIR]
# Writes OUTPUT_DIR/{train,validation,test}.tsv with the header "text<TAB>label".
#
# Text: the one-line description, and the beginning of the long one where apt's lists have it, up to 300 characters;
# never the name of the package. Label: the section. Only sections about a subject are used: those for a programming
# language, a desktop, documentation and the like are given away by a single word.
# Each source package gives one example, and its name alone decides the split, so that the almost equal descriptions
# of packages built from one source never lie on both sides.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
output=${1:?usage: make-demo-data.sh OUTPUT_DIR [LISTS_DIR]}
mkdir -p "$output"

"$here/package-stanzas.sh" --check ${2:+"$2"}
"$here/package-descriptions.sh" ${2:+"$2"} | perl -MDigest::MD5=md5_hex -e '
  use strict; use warnings;
  my $output = shift;
  my $largest_class = 1000;
  my %section = map { $_ => 1 } qw(admin devel editors fonts games graphics libs mail math net science sound text utils
                                   video web x11);
  my (%best, $with_long);
  while (<STDIN>) {
    chomp;
    my ($split, $section, $source, $package, $short, $long) = split /\t/, $_, -1;
    next if !$section{$section} || $short =~ /transitional|dummy|meta-?package|debug(ging)? symbols/i;
    # The package named like its source speaks for it, else the first in alphabetical order.
    next if $best{$source} && $package ne $source;
    my $text = $short;
    $text .= ". $long" if $long ne "";
    $text =~ s/ \| / /g;
    $text =~ s/[^\x20-\x7e]+/ /g;
    $text =~ s/\s+/ /g;
    if (length $text > 300) { $text = substr($text, 0, 301); $text =~ s/ [^ ]*$//; }
    $best{$source} = {split => $split, label => $section, text => $text, long => $long ne ""};
  }
  # Examples in the order of a hash: the caps then keep a random part, the same on every machine.
  my (%count, %text_seen, %rows);
  for my $source (map { $_->[1] } sort { $a->[0] cmp $b->[0] } map { [md5_hex("order:$_"), $_] } keys %best) {
    my $row = $best{$source};
    next if $text_seen{lc $row->{text}}++ || $count{$row->{label}} && $count{$row->{label}} >= $largest_class;
    $count{$row->{label}}++;
    $with_long++ if $row->{long};
    push @{$rows{$row->{split}}}, $row;
  }
  my (%table, %size);
  for my $split (qw(train validation test)) {
    open(my $out, ">", "$output/$split.tsv.part") or die "make-demo-data: $output/$split.tsv.part: $!\n";
    print $out "text\tlabel\n";
    for my $row (@{$rows{$split} // []}) {
      print $out "$row->{text}\t$row->{label}\n";
      $table{$row->{label}}{$split}++;
      $size{$split}++;
    }
    close $out or die "make-demo-data: $output/$split.tsv.part: $!\n";
    rename "$output/$split.tsv.part", "$output/$split.tsv" or die "make-demo-data: $output/$split.tsv: $!\n";
  }
  printf "%-10s %7s %10s %6s\n", "section", "train", "validation", "test";
  for my $label (sort keys %table) {
    printf "%-10s %7d %10d %6d\n", $label, map { $table{$label}{$_} // 0 } qw(train validation test);
  }
  printf "%-10s %7d %10d %6d\n", "all", map { $size{$_} // 0 } qw(train validation test);
  my ($majority) = sort { $table{$b}{train} <=> $table{$a}{train} } sort keys %table;
  printf "always answering \"%s\" is right in %.1f %% of the test split\n", $majority,
      100 * ($table{$majority}{test} // 0) / ($size{test} || 1);
  print $with_long ? "texts: one-line and long descriptions\n" : "texts: one-line descriptions (apt has no long ones here)\n";
' "$output"
