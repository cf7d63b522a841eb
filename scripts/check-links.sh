#!/usr/bin/env bash
# Fails if a relative link in the documentation names a file or a heading that does not exist.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z -- '*.md' | perl -0 -e '
  use strict; use warnings;
  use File::Basename;
  # The anchor that a heading gets on GitHub.
  sub anchor_of {
    my ($heading) = @_;
    $heading =~ s/\[([^\]]*)\]\([^)]*\)/$1/g;
    $heading =~ s/[`*]//g;
    $heading = lc $heading;
    $heading =~ s/[^a-z0-9 _-]//g;
    $heading =~ s/ /-/g;
    return $heading;
  }
  sub text_of {
    my ($file) = @_;
    open(my $in, "<", $file) or die "check-links: $file: $!\n";
    local $/;
    my $text = <$in>;
    # Neither headings nor links count inside code; line numbers stay as they are.
    $text =~ s{^(\s*```.*?^\s*```)}{ (my $block = $1) =~ tr/\n//cd; $block }gmse;
    return $text;
  }
  sub anchors_of {
    my ($file) = @_;
    my (%anchor, %times);
    for my $line (split /\n/, text_of($file)) {
      $anchor{$1} = 1 while $line =~ /<a (?:name|id)="([^"]+)"/g;
      next unless $line =~ /^#{1,6}\s+(.*?)\s*#*$/;
      my $name = anchor_of($1);
      my $time = $times{$name}++;
      $anchor{$time ? "$name-$time" : $name} = 1;
    }
    return \%anchor;
  }
  my (%anchors, @wrong);
  my ($files, $links) = (0, 0);
  while (my $file = <STDIN>) {
    chomp $file;
    $files++;
    my $number = 0;
    for my $line (split /\n/, text_of($file)) {
      $number++;
      $line =~ s/`[^`]*`//g;
      while ($line =~ /\]\(\s*<?([^)\s>]+)>?[^)]*\)/g) {
        my $link = $1;
        next if $link =~ m{^[a-z]+:};
        $links++;
        my ($path, $anchor) = split /#/, $link, 2;
        my $target = $path eq "" ? $file : $path =~ m{^/} ? substr($path, 1) : dirname($file) . "/$path";
        if (!-e $target) { push @wrong, "$file:$number: $link: no file $target"; next; }
        next if !defined $anchor || $target !~ /\.md$/;
        $anchors{$target} //= anchors_of($target);
        push @wrong, "$file:$number: $link: $target has no such heading" if !$anchors{$target}{$anchor};
      }
    }
  }
  if (@wrong) {
    print STDERR "$_\n" for @wrong;
    print STDERR "check-links: FAILED, ", scalar(@wrong), " broken links\n";
    exit 1;
  }
  print "check-links: $links relative links in $files files lead somewhere\n";'
