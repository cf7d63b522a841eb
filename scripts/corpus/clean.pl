#!/usr/bin/perl
# Keeps what reads like English prose. Input: one paragraph per line; output: lines of at most about 600 characters,
# broken at ends of sentences. Text that looks like code, a table, a list of words, a licence or another language is left out.
use strict;
use warnings;
use Encode ();

binmode(STDIN, ':raw');
binmode(STDOUT, ':raw');

use constant LONGEST => 600;
my %common = map { $_ => 1 } qw(
    the of and to a in is you that it he was for on are as with his they i at be this have from or one had by but not
    what all were we when your can said there an each which she do how their if will up other about out many then them
    these so some her would make like him into has two more no way could my than been who its now did down may where
    any only our me us after before very also most over must such because does here why while through should just
    something someone between without being used using when not act having quality relating person state who
    pertaining kind small large called having made consisting especially form usually);

sub normalise {
    my ($text) = @_;
    my $copy = $text;
    my $decoded = eval { Encode::decode('UTF-8', $copy, Encode::FB_CROAK) };
    $text = defined $decoded ? $decoded : Encode::decode('ISO-8859-1', $text);
    $text =~ tr/\x{2018}\x{2019}\x{201a}\x{2032}\x{b4}/'/;
    $text =~ tr/\x{201c}\x{201d}\x{201e}\x{ab}\x{bb}/"/;
    $text =~ s/``|''/"/g;
    $text =~ s/`([^`']*)'/'$1'/g;
    $text =~ tr/`/'/;
    $text =~ s/\s*[\x{2014}\x{2015}]\s*/ - /g;
    $text =~ tr/\x{2010}-\x{2013}\x{2212}/-/;
    $text =~ s/\x{2026}/.../g;
    $text =~ s/\x{fb01}/fi/g;
    $text =~ s/\x{fb02}/fl/g;
    $text =~ s/\x{ad}|\x{200b}|\x{feff}//g;
    $text =~ s/ *-- */ - /g;
    $text =~ s/[\x00-\x1f\x7f-\xa0\x{2028}\x{2029}]+/ /g;
    $text =~ s/^\s*(?:[*+\x{2022}\x{b7}>#|-]+|o(?= [A-Z])|\(?\d{1,3}[.)]|\(?[a-z]\)|\[\d+\])\s+//;
    $text =~ s/\s*\[\d+\]//g;
    $text =~ s/\b_([A-Za-z][^_]*)_(?!\w)|(?<!\w)_([A-Za-z][^_]*)_(?!\w)/$1 \/\/ $2/ge;
    $text =~ s/\*+([A-Za-z][^*]*)\*+/$1/g;
    $text =~ s/\s*\((?:https?:|see |cf\. )[^)]*\)//g;
    $text =~ s/\s+/ /g;
    $text =~ s/ ([,;:!?.])(?=\s|$)/$1/g;
    $text =~ s/^ | $//g;
    return $text;
}

my $licence = qr/copyright|\(c\) ?\d{4}|licen[sc]e|licensed|\bGPL|\bGFDL|gnu (?:lesser |general )|warrant(?:y|ies)|redistribut|all rights reserved|permission (?:is|notice)|merchantab|creative commons|trademark|isbn|e-?mail|\@\S+\.\w|\bfsf\b|copying\b|patches? (?:by|from)|mailing list|sourceforge|github/i;
my $furniture = qr/^(?:next|previous|prev|up|home|figure|table|chapter|example|note|see also|index|contents|back to|return to|last (?:modified|updated)|author|version|usage|synopsis)\b.{0,60}$|javascript|click here|\bxref\b|lorem ipsum|untranslated|\bTODO\b|\bFIXME\b/i;

sub is_prose {
    my ($text) = @_;
    my $length = length $text;
    return 0 if $length < 25;
    return 0 if $text =~ $licence || $text =~ $furniture;
    return 0 if $text =~ m{https?:|ftp://|www\.|<\w|\w>|[{}\\]|\[\[|\$\w|%[sd]|\w\(\)|::|->|=>|==|\|\||&&|\w_\w|(?:^|\s)/\w+/|\.\w+/|\w\.\w+\.\w|\s--?\w+=|\x{fffd}|\.{4}|[-=_*~#]{4}|\t};
    my @word = split ' ', $text;
    return 0 if @word < 5;
    my $letters = () = $text =~ /[A-Za-z]/g;
    my $spaces = () = $text =~ / /g;
    return 0 if $letters / ($length - $spaces) < 0.86;
    my $upper = () = $text =~ /[A-Z]/g;
    return 0 if $upper / $letters > 0.2;
    my $foreign = () = $text =~ /[^\x20-\x7e]/g;
    return 0 if $foreign > 2 + 0.01 * $length;
    return 0 if $text =~ /[^\x20-\x7e\x{a0}-\x{24f}\x{2070}-\x{20cf}]/;
    my ($known, $odd) = (0, 0);
    for my $word (@word) {
        my $bare = lc $word;
        $bare =~ s/^\W+|\W+$//g;
        $known++ if $common{$bare};
        $odd++ if length $word > 24 || $word =~ /[A-Za-z]\d|\d[A-Za-z]|[a-z][A-Z]|[\/=<>|^~\$#@+&%]|[a-z]\.[a-z]|\w[()\[\]]\w/ || $word =~ /^-\w/;
    }
    return 0 if $known / @word < (@word < 12 ? 0.1 : 0.2);
    return 0 if $odd / @word > 0.06;
    return 0 if $letters / @word > 9 || $letters / @word < 2.8;
    return 1;
}

sub pieces {
    my ($text) = @_;
    return ($text) if length $text <= LONGEST;
    my (@piece, $held);
    $held = '';
    for my $sentence (split /(?<=[.!?;]["')\]]|[^A-Z .][.!?;])\s+(?=["'(\[]?[A-Z]|[a-z])/, $text) {
        if ($held ne '' && length($held) + length($sentence) > LONGEST) {
            push @piece, $held;
            $held = '';
        }
        $held .= ($held eq '' ? '' : ' ') . $sentence;
    }
    push @piece, $held if $held ne '';
    # A "sentence" far over the limit is a list or a parsing accident.
    return grep { length $_ <= 2 * LONGEST } @piece;
}

while (my $line = <STDIN>) {
    chomp $line;
    next if length $line < 25;
    for my $piece (pieces(normalise($line))) {
        next if !is_prose($piece);
        my $out = Encode::encode('UTF-8', $piece);
        print $out, "\n";
    }
}
