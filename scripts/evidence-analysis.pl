#!/usr/bin/env perl
# What the adapters of a study of scripts/evidence.sh look like as matrices, how the loss behaves around them and fell, and what they answer.
# Usage: evidence-analysis.pl MEASURE OUTPUT STUDY FILE.csv [METHOD ...]   measures runs that FILE.csv lacks
#        evidence-analysis.pl table FILE.csv [NUMBER ...]                  its means ± sample standard deviations
#        evidence-analysis.pl differences FILE.csv METHOD                  from this method, over the seeds
#
# Of every method the runs at the chosen rate are looked at, one for each seed. matrices: `msplora analyze`. levels: `msplora eval
# --ablate-levels` on the test data, of methods with levels. landscape: `msplora eval --landscape` on the validation data. MSPLORA
# names the program, THREADS (1) its threads. answers (of facts and chat): shares of the held-out prompts that are answered right to the
# letter, and in the right form, and the best validation loss of the run. losses: of training, as metrics.jsonl has them; of every run, also
# at other rates. aggregators: scores, errors of aggregation and bytes of `msplora federate`. differences: means over the seeds that both
# have, with 95 % intervals (paired t). FILE.csv has a line for each number: method,rate,seed,number,value.
use strict;
use warnings;
use JSON::PP;

my $program = $ENV{MSPLORA} // "build/release/bin/msplora";
my $threads = $ENV{THREADS} // 1;

sub fail { die "evidence-analysis: @_\n" }

sub read_json {
  my ($path) = @_;
  open(my $in, "<", $path) or fail("$path: $!");
  local $/;
  return decode_json(<$in>);
}

# Runs the program and reads the JSON that it prints.
sub ask {
  my @command = ($program, @_, "--json", "--threads", $threads);
  open(my $out, "-|", @command) or fail("$command[0]: $!");
  local $/;
  my $text = <$out>;
  close($out) or fail("`@command` failed");
  return decode_json($text);
}

sub mean {
  my $sum = 0;
  $sum += $_ for @_;
  return $sum / @_;
}

# Numbers of `msplora analyze`: means over stacks (one for each module) or sites. What layers share is left out of their comparison.
sub of_matrices {
  my ($run) = @_;
  my $adapter = ask("analyze", $run)->{adapters}[0];
  my %found;
  my $add = sub { my ($name, $value) = @_; push @{$found{$name}}, $value if defined $value };
  for my $stack (@{$adapter->{stacks}}) {
    my ($own) = reverse grep { !$_->{is_shared} } @{$stack->{cosines}};
    my ($space) = grep { $_->{part} eq $own->{part} } @{$stack->{spaces}};
    my ($whole) = grep { $_->{part} eq "whole" } @{$stack->{cosines}};
    $add->("cosine of layers", $whole->{mean_absolute});
    $add->("cosine of layers, own parts", $own->{mean_absolute});
    $add->("cosine of layers, random", $own->{random});
    $add->("phi of layers, own parts, outputs", $space->{mean_left});
    $add->("phi of layers, own parts, inputs", $space->{mean_right});
    $add->("phi of layers, random", $space->{random_left});
  }
  my @names = map { $_->{name} } @{$adapter->{levels}};
  for my $site (@{$adapter->{sites}}) {
    $add->("effective rank", $site->{whole}{effective_rank});
    $add->("norm / norm of W0", $site->{base}{relative_norm});
    $add->("amplification", $site->{base}{amplification});
    next if @names < 2;
    for my $level (@{$site->{levels}}) {
      $add->("share of $names[$level->{level}]", $level->{share});
      $add->("own energy of $names[$level->{level}]", $level->{own});
    }
    for my $pair (@{$site->{overlaps}}) {
      my $of = "phi of $names[$pair->{first}] and $names[$pair->{second}]";
      $add->("$of, outputs", $pair->{left}{phi});
      $add->("$of, inputs", $pair->{right}{phi});
      $add->("$of, random", $pair->{left}{random});
    }
  }
  return map { [$_, mean(@{$found{$_}})] } sort keys %found;
}

# Data options and files of a run, from its recipe.
sub evaluation_of {
  my ($run) = @_;
  open(my $in, "<", "$run/recipe.yaml") or fail("$run/recipe.yaml: $!");
  my %file;
  my ($section, $model) = ("", "");
  while (<$in>) {
    $section = $1 if /^(\w+):/;
    $model = $1 if $section eq "model" && /^\s+path: "?(.*?)"?$/;
    $file{$1} = $2 if $section eq "data" && /^\s+(validation|test): "?(.*?)"?$/;
  }
  return ($model, \%file);
}

sub evaluated {
  my ($run, $part, $option) = @_;
  my ($model, $file) = evaluation_of($run);
  return ask("eval", "--model", $model, "--adapter", "$run/adapter-native", "--data", $file->{$part}, $option)->{results}[0];
}

# What the score loses without each level.
sub of_levels {
  my ($run) = @_;
  return if read_json("$run/adapter-native/adapter.json")->{config}{method} ne "msplora";
  my $result = evaluated($run, "test", "--ablate-levels");
  my ($metric) = grep { $_ ne "loss" } sort keys %{$result->{metrics}};
  return map { ["$metric without $_", $result->{without}{$_}{$metric} - $result->{metrics}{$metric}] } sort keys %{$result->{without}};
}

sub of_landscape {
  my ($run) = @_;
  my $landscape = evaluated($run, "validation", "--landscape")->{landscape};
  my @found = ["validation loss", $landscape->{loss}];
  for my $around (@{$landscape->{around}}) {
    my $percent = sprintf("%g %%", 100 * $around->{strength});
    push @found, ["loss, noise of $percent", mean(@{$around->{random}}) - $landscape->{loss}];
    push @found, ["loss, uphill by a tenth of $percent", $around->{uphill} - $landscape->{loss}];
  }
  my $layers = $landscape->{gradients_of_layers};
  push @found, ["cosine of gradients of layers", mean(map { $_->{mean} } values %$layers)] if $layers;
  for my $step ("plain", "nearest") {
    my $missed = $landscape->{"${step}_missed"};
    push @found, ["gradient missed by a $step step", $missed] if defined $missed;
  }
  return @found;
}

sub read_lines {
  my ($path) = @_;
  open(my $in, "-|", "gzip", "-dcf", $path) or fail("$path: $!");
  my @lines = map { decode_json($_) } <$in>;
  close($in) or fail("$path cannot be read");
  return @lines;
}

# A row without what it wants to be answered, and that answer.
sub ask_and_answer {
  my ($row) = @_;
  return ({prompt => $row->{prompt}}, $row->{completion}) if defined $row->{completion};
  my @messages = @{$row->{messages}};
  my $answer = pop @messages;
  return ({messages => \@messages}, $answer->{content});
}

# What the model says to the prompts of its test data, or where a run has none of its validation data, and what it should have said.
sub of_answers {
  my ($run) = @_;
  my ($model, $file) = evaluation_of($run);
  my @opened = -e "$run/model" ? ("--model", "$run/model") : ("--model", $model, "--adapter", "$run/adapter-native");
  my ($texts, $prompts, @wanted) = ("$run/texts.jsonl", "$run/prompts.jsonl");
  open(my $out, ">", $prompts) or fail("$prompts: $!");
  for my $row (read_lines($file->{test} || $file->{validation})) {
    my ($prompt, $answer) = ask_and_answer($row);
    print $out JSON::PP->new->canonical->utf8->encode($prompt), "\n";
    push @wanted, $answer;
  }
  close($out);
  if (!-e $texts) {
    my @command = ($program, "generate", @opened, "--greedy", "--max-new-tokens", 40, "--prompts", $prompts, "--threads", $threads,
      "--output", $texts);
    system(@command) == 0 or fail("`@command` failed");
  }
  my @said = map { $_->{text} =~ s/^\s+|\s+$//gr } read_lines($texts);
  fail("$texts has ", scalar @said, " texts for ", scalar @wanted, " answers") if @said != @wanted;
  # of facts: `[town] key = ...`; of chat: `section: large program, few needs`
  my $form = sub { $_[0] =~ /^(.*)=/ || $_[0] =~ /^(\S+:) \w+ [\w ]+, \w+ needs?$/ ? $1 : "" };
  my $right = grep { $said[$_] eq $wanted[$_] } 0 .. $#said;
  my $formed = grep { $form->($said[$_]) eq $form->($wanted[$_]) } 0 .. $#said;
  return (["answers right", $right / @said], ["answers in form", $formed / @said],
    ["validation loss", read_json("$run/metrics.json")->{best}{loss}]);
}

# Of `msplora federate`: scores in percent, means over the rounds, and megabytes.
sub of_aggregators {
  my ($run) = @_;
  my $metrics = read_json("$run/metrics.json");
  my @rounds = read_lines("$run/rounds.jsonl");
  my $scores = $rounds[-1]{client_scores};
  return (
    ["test accuracy", 100 * $metrics->{test}{accuracy}],
    ["clients, mean accuracy", 100 * $scores->{mean}],
    ["clients, worst accuracy", 100 * $scores->{worst}],
    ["error of aggregation", mean(map { $_->{aggregation}{error} } @rounds)],
    ["cosine of aggregation", mean(map { $_->{aggregation}{cosine} } @rounds)],
    ["MB up", $metrics->{bytes}{up}{total} / 1e6],
    ["MB down", $metrics->{bytes}{down}{total} / 1e6],
    ["rate", ($run =~ /lr-([^-]+)/)[0]]);
}

# Means of the training loss over twenty steps, of runs that have it at rates that are tried with several seeds.
my @loss_steps = (20, 40, 60, 80, 100, 150, 200, 300);

sub losses {
  my ($output, $study, $path, @methods) = @_;
  my ($directory) = $study =~ /^([^-]+-[^-]+)/;
  my @lines;
  for my $method (@methods) {
    for my $file (sort glob("$output/$directory/runs/$method/*/metrics.jsonl")) {
      my ($rate, $seed) = $file =~ /lr-(.*)-seed-(\d+)/;
      my @steps = grep { $_->{kind} eq "train" } read_lines($file);
      for my $end (@loss_steps) {
        my @near = map { $_->{loss} } grep { $_->{step} > $end - 20 && $_->{step} <= $end } @steps;
        push @lines, sprintf("%s at %s,%s,%d,\"loss at step %d\",%.6g\n", $method, $rate, $rate, $seed, $end, mean(@near)) if @near;
      }
    }
  }
  open(my $out, ">", $path) or fail("$path: $!");
  print $out "method,rate,seed,number,value\n", @lines;
  close($out);
}

sub read_table {
  my ($path) = @_;
  my @lines;
  open(my $in, "<", $path) or return;
  while (<$in>) {
    chomp;
    next if $. == 1;
    my ($method, $rate, $seed, $rest) = split(/,/, $_, 4);
    my ($number, $value) = $rest =~ /^"(.*)",(.*)$/ or fail("$path:$.: cannot be read");
    push @lines, [$method, $rate, $seed, $number, $value];
  }
  return @lines;
}

sub collect {
  my ($measure, $output, $study, $path, @methods) = @_;
  my %done = map { ("$_->[0],$_->[1],$_->[2]" => 1) } read_table($path);
  my ($directory) = $study =~ /^([^-]+-[^-]+)/;
  if (!-e $path) {
    open(my $new, ">", $path) or fail("$path: $!");
    print $new "method,rate,seed,number,value\n";
  }
  for my $row (@{read_json("$output/$study.json")->{rows}}) {
    next if @methods && !grep { $_ eq $row->{method} } @methods;
    for my $run (@{$row->{runs}}) {
      next if $run->{error} || $done{"$run->{method},$run->{lr},$run->{seed}"};
      my $where = "$output/$directory/runs/$run->{name}";
      my @numbers = $measure->($where);
      open(my $out, ">>", $path) or fail("$path: $!");
      printf $out "%s,%s,%s,\"%s\",%.6g\n", @$run{qw(method lr seed)}, @$_ for @numbers;
      close($out);
      print "$run->{name}\n";
    }
  }
}

sub table {
  my ($path, @wanted) = @_;
  my (%values, @methods, @numbers);
  for my $line (read_table($path)) {
    my ($method, undef, undef, $number, $value) = @$line;
    push @methods, $method if !grep { $_ eq $method } @methods;
    push @numbers, $number if !grep { $_ eq $number } @numbers;
    push @{$values{$number}{$method}}, $value;
  }
  @wanted = @numbers if !@wanted;
  print "| | ", join(" | ", @methods), " |\n|---|", "---:|" x @methods, "\n";
  for my $number (@wanted) {
    my @cells;
    for my $method (@methods) {
      my @found = @{$values{$number}{$method} // []};
      my $text = @found ? sprintf("%.4f", mean(@found)) : "";
      if (@found > 1) {
        my $center = mean(@found);
        $text .= sprintf(" ± %.4f", sqrt(mean(map { ($_ - $center)**2 } @found) * @found / (@found - 1)));
      }
      push @cells, $text;
    }
    print "| $number | ", join(" | ", @cells), " |\n";
  }
}

# Two-sided 95 % points of Student's t, by degrees of freedom.
my @t95 = (undef, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262);

sub differences {
  my ($path, $reference) = @_;
  my (%value, @methods, @numbers);
  for my $line (read_table($path)) {
    my ($method, undef, $seed, $number, $value) = @$line;
    push @methods, $method if !grep { $_ eq $method } @methods;
    push @numbers, $number if !grep { $_ eq $number } @numbers;
    $value{$number}{$method}{$seed} = $value;
  }
  fail("$path has no method `$reference`") if !grep { $_ eq $reference } @methods;
  my @others = grep { $_ ne $reference } @methods;
  print "| from $reference | ", join(" | ", @others), " |\n|---|", "---:|" x @others, "\n";
  for my $number (@numbers) {
    my @cells;
    for my $method (@others) {
      my ($own, $base) = ($value{$number}{$method} // {}, $value{$number}{$reference} // {});
      my @found = map { $own->{$_} - $base->{$_} } grep { exists $base->{$_} } sort keys %$own;
      my $bound = $t95[$#found];
      if ($#found < 0 || !defined $bound) { push @cells, ""; next }
      my $center = mean(@found);
      my $reach = $bound * sqrt(mean(map { ($_ - $center)**2 } @found) / $#found);
      push @cells, sprintf("%+.4f (%+.4f to %+.4f)", $center, $center - $reach, $center + $reach);
    }
    print "| $number | ", join(" | ", @cells), " |\n";
  }
}

my %measures = (matrices => \&of_matrices, levels => \&of_levels, landscape => \&of_landscape, answers => \&of_answers,
  aggregators => \&of_aggregators);
my $task = shift // "";
if ($measures{$task} && @ARGV >= 3) { collect($measures{$task}, @ARGV) }
elsif ($task eq "losses" && @ARGV >= 4) { losses(@ARGV) }
elsif ($task eq "table" && @ARGV >= 1) { table(@ARGV) }
elsif ($task eq "differences" && @ARGV == 2) { differences(@ARGV) }
else {
  fail("usage: evidence-analysis.pl matrices|levels|landscape|answers|losses|aggregators OUTPUT STUDY FILE.csv [METHOD ...] | ",
    "table FILE.csv [NUMBER ...] | differences FILE.csv METHOD");
}
