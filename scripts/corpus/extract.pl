#!/usr/bin/perl
# Reads the names of files on standard input and writes the English text in them, one paragraph per line.
# Usage: find DIR -type f | sort | perl extract.pl FORMAT
use strict;
use warnings;
use Compress::Zlib ();
use Digest::MD5 'md5';

my $format = shift or die "usage: extract.pl FORMAT < names\n";
binmode(STDOUT, ':raw');
my %seen;  # catalogues of many languages hold the same strings

sub slurp {
    my ($file) = @_;
    open(my $in, '<:raw', $file) or return '';
    local $/;
    my $data = <$in> // '';
    if (substr($data, 0, 2) eq "\x1f\x8b") {
        $data = Compress::Zlib::memGunzip($data) // '';
    }
    return $data;
}

sub emit {
    my ($text) = @_;
    $text =~ s/\s+/ /g;
    $text =~ s/^ | $//g;
    return if $text !~ /[A-Za-z].*[A-Za-z]/ || $seen{md5($text)}++;
    print $text, "\n";
}

sub paragraphs { emit($_) for split /\n[ \t]*\n\s*/, $_[0]; }

my %entity = (amp => '&', lt => '<', gt => '>', quot => '"', apos => "'", nbsp => ' ', mdash => ' - ', ndash => '-',
              rsquo => "'", lsquo => "'", rdquo => '"', ldquo => '"', hellip => '...', eacute => 'e', uuml => 'ue');

sub decode_entities {
    my ($text) = @_;
    $text =~ s/&#x([0-9a-fA-F]+);/utf8_of(hex $1)/ge;
    $text =~ s/&#([0-9]+);/utf8_of($1)/ge;
    $text =~ s/&([a-z]+);/$entity{$1} \/\/ ' '/ge;
    return $text;
}

sub utf8_of {
    my ($code) = @_;
    return ' ' if $code > 0x10ffff || ($code >= 0xd800 && $code < 0xe000);
    my $char = chr $code;
    utf8::encode($char);
    return $char;
}

# Text outside code, tables and furniture. A block tag ends a paragraph.
sub html {
    my ($text) = @_;
    $text =~ s/<!--.*?-->//gs;
    $text =~ s/<(head|script|style|pre|nav|header|footer|svg|math|code-block|screen|programlisting)\b.*?<\/\1\s*>/\n\n/gsi;
    $text =~ s/<a\b[^>]*class="headerlink".*?<\/a>//gsi;
    $text =~ s/\n/ /g;
    $text =~ s/<\/?(p|div|br|li|ul|ol|dl|dt|dd|h[1-6]|td|th|tr|table|tbody|blockquote|section|article|body|title|hr|note|item|steps|para|simpara|listitem|sect[0-9]|center)\b[^>]*>/\n\n/gi;
    $text =~ s/<[^>]*>//g;
    paragraphs(decode_entities($text));
}

# The untranslated strings of a compiled message catalogue.
sub mo {
    my ($data) = @_;
    return if length $data < 28;
    my $order = unpack('V', $data) == 0x950412de ? 'V' : 'N';
    my (undef, undef, $count, $table) = unpack("${order}4", $data);
    for my $i (0 .. $count - 1) {
        last if $table + 8 * $i + 8 > length $data;
        my ($length, $offset) = unpack("${order}2", substr($data, $table + 8 * $i, 8));
        next if !$length || $offset + $length > length $data;
        my $text = substr($data, $offset, $length);
        $text =~ s/^[^\x04]*\x04//s;     # message context
        $text =~ s/\x00.*//s;            # plural form
        $text =~ s/<\/?[a-z_]+[^<>]*>//gi;
        $text =~ s/\\n/\n/g;
        $text =~ s/^[\w' -]{1,30}\^//;   # wesnoth: disambiguating prefix
        paragraphs($text);
    }
}

# Sword modules are zlib blocks; the file beside them (.bzs for .bzz) holds offset, packed and plain size of each.
sub sword {
    my ($data, $file) = @_;
    return if $file !~ /zz$/;
    (my $index_file = $file) =~ s{z$}{s};
    my @index = unpack('V*', slurp($index_file));
    while (my ($offset, $packed) = splice(@index, 0, 3)) {
        my $text = Compress::Zlib::uncompress(substr($data, $offset, $packed)) // '';
        $text =~ s/<note\b.*?<\/note>//gsi;
        $text =~ s/<(title|h[1-6])\b.*?<\/\1>/\n\n/gsi;
        $text =~ s/<\/?(p|br|div|lb|chapter|verse|item|list)\b[^>]*>/\n/gi;
        $text =~ s/<[^>]*>//g;
        $text = decode_entities($text);
        $text =~ s/\\[a-z]+[0-9]*\b//g;
        # Verses are short: put them together to paragraphs.
        my $held = '';
        for my $line (split /\s*[\r\n\x00]+\s*/, $text) {
            $line =~ s/\(See Scofield [^)]*\)|^Verses? [\d-]+\.? //g;
            $line =~ s/^(\d+:?\d*|[IVXLC]+)[.: ]+//;
            next if $line !~ /[a-z]{2}/;
            $held .= ($held eq '' ? '' : ' ') . $line;
            if (length $held > 350) { emit($held); $held = ''; }
        }
        emit($held);
    }
}

# R's lazy-load data: for each object four bytes of length, then a zlib stream of R's serialisation, in which
# a string is the flags 0x00040009 (or 8009 and so on), a length and the bytes. Books are vectors of short lines.
sub rdb {
    my ($data) = @_;
    while (length $data > 4) {
        substr($data, 0, 4) = '';
        my ($stream) = Compress::Zlib::inflateInit();
        my ($out, $status) = $stream->inflate($data);
        last if $status != Compress::Zlib::Z_STREAM_END();
        my $held = '';
        while ($out =~ /\x00[\x00-\x0f][\x00-\xff]\x09([\x00-\xff]{4})/gs) {
            my $length = unpack('N', $1);
            next if pos($out) + $length > length $out;
            my $line = substr($out, pos($out), $length);
            pos($out) += $length;
            next if $line =~ /[\x00-\x08]/;
            if ($line =~ /^\s*$/) { emit($held); $held = ''; next; }
            $line =~ s{\r}{}g;
            if ($line =~ /\n/) { paragraphs($line); next; }
            $held .= ' ' . $line;
        }
        emit($held);
    }
}

sub dict {
    my ($text) = @_;
    $text =~ s/[{}]//g;
    $text =~ s/^\S.{0,60}\n\n//gm;      # headword lines
    $text =~ s/<[a-z, ]+> //g;
    $text =~ s/ ?\/[^\/ \n]{1,12}[^\/\n]{0,20}\/ ?/ /g;
    $text =~ s/^([A-Z' -]+), (n|adj|adv|v\.[it]|v|pp|p\.p|x|pr)\. +/$1: /gm;
    paragraphs($text);
}

# Webster 1913: definitions and quotations without etymology, grammar and marks.
sub gcide {
    my ($text) = @_;
    $text =~ s/\r//g;
    for my $block (split /\n\s*\n/, $text) {
        my $word = $block =~ s/^(\S[^\\\n]{0,40}?) \\.*?\\,?// ? $1 : '';
        $block =~ s/\s+/ /g;
        $block =~ s/\[(1913 Webster|PJC|WordNet[^\]]*|Webster[^\]]*|Century[^\]]*|[A-Z]{1,4}|Obs\.?[^\]]*|R\.|Archaic|Prov[^\]]*|Colloq\.?[^\]]*|Poetic|[^\]]*Dict\.?)\]//g;
        1 while $block =~ s/\[[^\[\]]*\]//;
        $block =~ s/\([A-Z][A-Za-z.& ]{1,14}\.?\)//g;
        $block =~ s/--\s*[A-Z][A-Za-z.'&() ]{1,40}\.?\s*$//;
        $block =~ s/[{}]//g;
        $block =~ s/^\s*(n|a|adj|adv|v\. ?t|v\. ?i|v\. ?t\. & i|p\. ?p|prep|conj|interj|imp|pl|n\. ?pl|fem)\.( ?[;&,])? ?//g;
        $block =~ s/^\s*(\([a-z]\)|\d+\.)\s*//;
        $block =~ s/^\s*Note:\s*//;
        $block =~ s/\s+/ /g;
        $block =~ s/^ | $//g;
        next if $block =~ /^(Syn|See|Same as|\||Defn)/ || length $block < 25;
        $word =~ s/[^A-Za-z' -]//g;
        $block = "$word: " . lcfirst($block) if $word ne '' && $block =~ /^[A-Z][a-z]/;
        emit($block);
    }
}

sub wordnet {
    my ($text) = @_;
    for my $line (split /\n/, $text) {
        next if $line =~ /^ /;
        my ($fields, $gloss) = split / \| /, $line, 2;
        next if !defined $gloss;
        my @field = split / /, $fields;
        my $word = $field[4];
        $word =~ s/_/ /g;
        $word =~ s/\(.*\)//;
        my @example = $gloss =~ /"([^"]+)"/g;
        $gloss =~ s/;? *"[^"]*".*$//;
        emit("$word: $gloss");
        emit($_) for @example;
    }
}

sub thesaurus {
    my ($text) = @_;
    my $word = '';
    for my $line (split /\n/, $text) {
        if ($line =~ /^\((noun|verb|adj|adv)\)\|(.*)/) {
            my (%class, @plain);
            for (split /\|/, $2) {
                if (/^(.*) \((generic|similar|related) term\)$/) { push @{$class{$2}}, $1 }
                elsif (/^(.*) \(antonym\)$/) { push @{$class{antonym}}, $1 }
                else { push @plain, $_ }
            }
            # Synonyms and opposites only: chains of wider terms repeat without end.
            my @part;
            push @part, "$word means the same as " . list(@plain) if @plain;
            push @part, "$word is close to " . list(@{$class{similar}}) if $class{similar};
            push @part, "$word is the opposite of " . list(@{$class{antonym}}) if $class{antonym};
            emit(join('; ', @part) . '.') if @part;
        } elsif ($line =~ /^([^|(]+)\|/) { $word = $1 }
    }
}

sub list {
    my @word = @_ > 5 ? @_[0 .. 4] : @_;
    return $word[0] if @word == 1;
    return join(', ', @word[0 .. $#word - 1]) . " and $word[-1]";
}

sub fortune {
    my ($text) = @_;
    for (split /^%.*\n/m, $text) {
        s/\x08.//g;
        s/^\s*--.*//ms;
        emit($_);
    }
}

# Strings in quotes of any kind that read like a sentence.
sub quoted {
    my ($text) = @_;
    $text =~ s/^\s*(#|--(?!\[)).*$//gm;
    while ($text =~ /`([^`]+)`|"((?:[^"\\]|\\.)*)"|\[\[(.*?)\]\]/gs) {
        my $string = $1 // $2 // $3;
        next if $string !~ / \S+ .*[.!?"]/s;
        $string =~ s/\\n/\n/g;
        $string =~ s/\\(.)/$1/g;
        $string =~ s/\{(?:player|pilot)\}|<(?:first|last|player)>/Captain/g;
        paragraphs($string);
    }
}

sub naev {
    my ($text) = @_;
    if ($text =~ /^\s*<\?xml/) {
        while ($text =~ /<(?:description|bar|unit_description|text)>(.*?)<\//gs) { emit(decode_entities($1)) }
    } else { quoted($text) }
}

sub strings {
    my ($text) = @_;
    while ($text =~ /'''(.*?)'''/gs) {
        my $string = $1;
        $string =~ s/\[\[encyclopedia \w+\]\]//g;
        $string =~ s/<[^>]*>//g;
        emit($_) for split /\n+/, $string;
    }
}

sub mapmsg {
    my ($text) = @_;
    while ($text =~ /^(?:msg|lore)\n(.*?)^end(?:msg|lore)\n/gms) {
        my $message = $1;
        $message =~ s/^\@match.*$/\n/gm;
        $message =~ s/^(Created|Modified):.*$//gm;
        $message =~ s/\[\/?[a-z]+[^\]]*\]//g;
        paragraphs($message);
    }
}

sub percent {
    my ($text) = @_;
    $text =~ s/\{\{.*?\}\}//gs;
    $text =~ s/^(w:\d+|#.*|:.*)$//gm;
    for my $entry (split /^%%%%\n?/m, $text) { paragraphs($entry) }
}

sub angle {
    my ($text) = @_;
    emit($_) for grep { / \S+ / } $text =~ /<([^<>]{25,})>/g;
    for my $line (split /\n/, $text) { emit($1) if $line =~ /^\d+ +(\S+ .{20,})$/ && $line !~ /</ }
}

sub property {
    my ($text) = @_;
    $text =~ s/\\\n\s*//g;
    for my $line (split /\n/, $text) { $line =~ s/\\n/ /g; emit($1) if $line =~ /^[\w.]+=(.*)/ }
}

sub pod {
    my ($text) = @_;
    for my $block (split /\n\s*\n/, $text) {
        next if $block =~ /^[\s=]/;
        1 while $block =~ s/[A-Z]<(?:<+ )?([^<>]*)(?: >+)?>/$1/g;
        emit($block);
    }
}

sub rst {
    my ($text) = @_;
    for my $block (split /\n\s*\n/, $text) {
        next if $block =~ /^\s{2,}|^\.\.|^:|::\s*$|^[=+|]|^[-=~^*]{3}/m;
        $block =~ s/:\w+:`([^`]*)`|``([^`]*)``|`([^`]*)`_*/$1 \/\/ $2 \/\/ $3/ge;
        $block =~ s/\*+([^*]+)\*+/$1/g;
        emit($block);
    }
}

sub lyx {
    my ($text) = @_;
    while ($text =~ /^\\begin_layout (Standard|Itemize|Enumerate|Quotation|Quote|Description)\n(.*?)^\\end_layout/gms) {
        my $block = $2;
        next if $block =~ /^\\begin_inset (Formula|Tabular|ERT|listings)/m;
        $block =~ s/^\\begin_inset.*?^\\end_inset//gms;
        $block =~ s/^\\.*$//gm;
        emit($block);
    }
}

sub desc {
    my ($text) = @_;
    $text =~ s/^(Tag|Severity|Check|See-Also|Renamed-From|Experimental|Show-Always).*\n(?:[ \t]+\S.*\n)*//gm;
    $text =~ s/^(Explanation|Info): *//gm;
    $text =~ s/^ +\.$//gm;
    paragraphs($text);
}

# Plain text: indented blocks and blocks whose lines are short are code, tables or verse without sentences.
sub text {
    my ($text) = @_;
    $text =~ s/\r//g;
    $text =~ s/\\(button|key|token|type|c;|n;|b;|t;|l;|s;|norm;)\S*//g;
    for my $block (split /\n[ \t]*\n/, $text) {
        next if $block =~ /^(?: {8,}|\t{2,})\S.*\n(?: {8,}|\t{2,})\S/;
        next if $block =~ /\S {4,}\S.*\n.*\S {4,}\S/;
        $block =~ s/-\n\s*(?=[a-z])/-/g;
        emit($block);
    }
}

my %reader = (text => \&text, html => \&html, mo => \&mo, sword => \&sword, rdb => \&rdb, dict => \&dict, gcide => \&gcide,
              wordnet => \&wordnet, thesaurus => \&thesaurus, fortune => \&fortune, quoted => \&quoted, naev => \&naev,
              strings => \&strings, mapmsg => \&mapmsg, percent => \&percent, angle => \&angle, property => \&property,
              pod => \&pod, rst => \&rst, lyx => \&lyx, desc => \&desc);
my $reader = $reader{$format} or die "extract.pl: unknown format '$format', known: @{[sort keys %reader]}\n";
while (my $file = <STDIN>) {
    chomp $file;
    next if $file =~ /\.(png|jpg|gif|dat\.gz|u8|svg)$/;
    my $data = slurp($file);
    next if $format ne 'mo' && $format ne 'sword' && $format ne 'rdb' && substr($data, 0, 4000) =~ /\x00/;
    $reader->($data, $file);
}
