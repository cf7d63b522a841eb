#!/usr/bin/env bash
# Makes two tasks about pairs of texts from this machine's apt lists.
# Usage: make-pair-data.sh OUTPUT_DIR [LISTS_DIR]
#
# OUTPUT_DIR/needs/{train,validation,test}.tsv, "text<TAB>text_pair<TAB>label": does the first package need the second? `yes`,
# or `no` where the second is another one of that section; half and half. Texts are one-line descriptions. What more than 30
# packages need is left out: it could be learned by heart.
#
# OUTPUT_DIR/likeness/{train,validation,test}.tsv, "text<TAB>text_pair<TAB>label": how much alike are two packages, from 0
# to 5? 5 times the share of their debtags that both have (intersection over union), of the facets that say what a package
# is for; partners are drawn so that likeness of all degrees occurs.
#
# Each source package gives one text, and its name alone decides the split: both packages of a pair are of one split.
# Nothing but the lists decides what is drawn.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
output=${1:?usage: make-pair-data.sh OUTPUT_DIR [LISTS_DIR]}
lists=${2:-}
mkdir -p "$output/needs" "$output/likeness"

"$here/package-stanzas.sh" --check ${lists:+"$lists"}
{
  "$here/package-descriptions.sh" ${lists:+"$lists"}
  echo "=stanzas="
  "$here/package-stanzas.sh" ${lists:+"$lists"}
} | perl -MDigest::MD5=md5_hex -e '
  use strict; use warnings;
  my $output = shift;
  my %wanted = (train => 6000, validation => 1000, test => 2000);
  my %facet = map { $_ => 1 } qw(accessibility admin biology devel field filetransfer game hardware interface junior mail network office
                                 protocol scope science security sound uitoolkit use web works-with works-with-format x11);
  my (%best, %of_package, %tags, %needs, %needed);
  while (<STDIN>) {
    last if $_ eq "=stanzas=\n";
    chomp;
    my ($split, $section, $source, $package, $short) = split /\t/, $_, -1;
    next if length $short < 15 || $short =~ /transitional|dummy|meta-?package|debug(ging)? symbols/i;
    next if $best{$source} && $package ne $source;
    $short =~ s/[^\x20-\x7e]+/ /g;
    $short =~ s/\b\Q$package\E\b/it/gi;  # its own name says too much
    delete $of_package{$best{$source}{package}} if $best{$source};
    $best{$source} = {source => $source, split => $split, section => $section, package => $package, text => $short};
    $of_package{$package} = $best{$source};
  }
  {
    local $/ = "";
    while (my $stanza = <STDIN>) {
      my ($package) = $stanza =~ /^Package: (\S+)$/m or next;
      $of_package{$package} or next;
      if (my ($field) = $stanza =~ /^Tag: (.*(?:\n .*)*)/m) {
        my @tags = grep { /^([a-z0-9-]+)::/ && $facet{$1} } split /[,\s]+/, $field;
        $tags{$package} = {map { $_ => 1 } @tags} if @tags >= 3;
      }
      while ($stanza =~ /^(?:Pre-)?Depends: (.*)$/mg) {
        for my $other (map { /^\s*([a-z0-9][a-z0-9+.-]*)/ ? $1 : () } split /[,|]/, $1) {
          next if !$of_package{$other} || $other eq $package || $needs{$package}{$other}++;
          $needed{$other}++;
        }
      }
    }
  }
  # A number from a text, the same on every machine.
  sub draw { hex(substr md5_hex(join ":", @_), 0, 8) }
  sub likeness {
    my ($left, $right) = @_;
    my $both = grep { $right->{$_} } keys %$left;
    return $both / (keys(%$left) + keys(%$right) - $both);
  }
  sub write_rows {
    my ($task, $split, $rows) = @_;
    my $file = "$output/$task/$split.tsv";
    open(my $out, ">", "$file.part") or die "$file: $!\n";
    print $out "text\ttext_pair\tlabel\n", @$rows;
    close $out or die "$file: $!\n";
    rename "$file.part", $file or die "$file: $!\n";
    printf "%s: %d rows\n", $file, scalar @$rows;
  }
  for my $split (qw(train validation test)) {
    my @of_split = sort { md5_hex("order:$a->{source}") cmp md5_hex("order:$b->{source}") } grep { $_->{split} eq $split } values %best;
    my (%in_section, @needs, @likeness);
    push @{$in_section{$_->{section}}}, $_ for @of_split;
    for my $one (@of_split) {
      for my $name (sort keys %{$needs{$one->{package}} || {}}) {
        my $other = $of_package{$name};
        next if @needs >= $wanted{$split} || $other->{split} ne $split || $needed{$name} > 30;
        my $others = $in_section{$other->{section}};
        my $not = $others->[draw("not", $one->{source}, $name) % @$others];
        next if $not == $one || $needs{$one->{package}}{$not->{package}};
        push @needs, "$one->{text}\t$other->{text}\tyes\n", "$one->{text}\t$not->{text}\tno\n";
      }
    }
    my @tagged = grep { $tags{$_->{package}} } @of_split;
    for my $one (@tagged) {
      last if @likeness >= $wanted{$split} || @tagged < 2;
      # Of more candidates the nearest is nearer.
      my $candidates = (1, 5, 40, 400)[draw("candidates", $one->{source}) % 4];
      my ($nearest, $best_likeness);
      for my $i (1 .. $candidates) {
        my $other = $tagged[draw("like$i", $one->{source}) % @tagged];
        next if $other == $one;
        my $value = likeness($tags{$one->{package}}, $tags{$other->{package}});
        ($nearest, $best_likeness) = ($other, $value) if !defined $nearest || $value > $best_likeness;
      }
      next if !$nearest;
      push @likeness, join("\t", $one->{text}, $nearest->{text}, sprintf("%.3f", 5 * $best_likeness)) . "\n";
    }
    write_rows("needs", $split, \@needs);
    write_rows("likeness", $split, \@likeness);
  }
' "$output"
