#!/usr/bin/env bash
# Fails if a file includes a header of a layer it must not know, if a layer without libtorch includes libtorch, or if a
# std::filesystem function is called that throws an exception of its own (core/paths.h has those that throw ours).
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -- include src apps tests examples | grep -E '\.(h|cc)$' | perl -e '
  use strict; use warnings;
  # What each layer may include besides itself. The layer of a file is the folder below include/msplora or src.
  my @core = ("core");
  my @torch = (@core, "gguf", "kernels", "nn");
  my @text = (@core, "gguf", "tokenizers", "templates", "data", "metrics");
  my %allowed = (
    core => [],
    start => [],
    gguf => [@core],
    tokenizers => [@core, "gguf"],
    metrics => [@core],
    data => [@core, "tokenizers", "templates"],
    generation => [@core],
    templates => [@core, "gguf"],
    report => [@core],
    kernels => [@core],
    nn => [@core, "gguf", "kernels"],
    io => [@torch],
    models => [@torch, "io"],
    decoding => [@torch, "tokenizers", "generation", "models"],
    adapters => [@torch, "io", "models"],
    analysis => [@torch, "io", "models", "adapters", "report"],
    tasks => [@torch, @text, "io", "models", "adapters"],
    train => [@torch, @text, "io", "models", "adapters", "tasks"],
    federated => [@torch, @text, "io", "models", "adapters", "tasks", "train"],
    runs => [@torch, @text, "io", "models", "adapters", "tasks", "train", "federated", "decoding", "generation",
             "analysis", "report"],
    bench => [@torch, @text, "io", "models", "adapters", "tasks", "train", "decoding", "generation", "analysis"],
  );
  my %torch_free = map { $_ => 1 } qw(core gguf tokenizers data metrics generation templates report);
  # The table of docs/architecture.md begins with the lowest layer.
  open(my $table, "<", "docs/architecture.md") or die "check-layers: docs/architecture.md: $!\n";
  my (%row, @wrong);
  while (my $line = <$table>) { $row{$1} //= $. if $line =~ /^\| `([a-z]+)` \|/; }
  for my $layer (sort keys %allowed) {
    if (!$row{$layer}) { push @wrong, "docs/architecture.md: the layer \"$layer\" is missing"; next; }
    for my $lower (grep { ($row{$_} // 0) > $row{$layer} } @{$allowed{$layer}}) {
      push @wrong, "docs/architecture.md:$row{$layer}: \"$layer\" may include \"$lower\", which stands below it";
    }
  }
  my $throwing = join "|", qw(exists is_directory is_regular_file is_empty status file_size create_directory
    create_directories remove remove_all rename copy copy_file read_symlink absolute canonical weakly_canonical equivalent
    directory_iterator recursive_directory_iterator is_symlink);
  my ($files, $includes) = (0, 0);
  while (my $file = <STDIN>) {
    chomp $file;
    $files++;
    my ($layer) = $file =~ m{^(?:include/msplora|src)/([^/]+)/};
    if (defined $layer && !$allowed{$layer}) {
      push @wrong, "$file: \"$layer\" is no layer; known: " . join(", ", sort keys %allowed);
      next;
    }
    # Tests of a layer without libtorch are linked without it.
    my ($tested) = $file =~ m{^tests/([^/]+)/};
    my $torch_free = $torch_free{$layer // $tested // ""};
    my %may = $layer ? map { $_ => 1 } $layer, @{$allowed{$layer}} : ();
    open(my $in, "<", $file) or die "check-layers: $file: $!\n";
    while (my $line = <$in>) {
      if ($file =~ m{^(src/(?!core/)|apps/)} && $line =~ /\b(?:fs|std::filesystem)::($throwing)\(/ && $line !~ /\b(code|ignored)\)/) {
        push @wrong, "$file:$.: std::filesystem::$1 may throw what is no Error: see msplora/core/paths.h, or give it an error_code";
      }
      next unless $line =~ /^\s*#\s*include\s*[<"]([^>"]+)[>"]/;
      my $header = $1;
      $includes++;
      if ($torch_free && $header =~ m{^(torch|ATen|c10|caffe2)/}) {
        push @wrong, "$file:$.: includes $header, but this layer is built without libtorch";
      }
      # Both public headers (msplora/io/x.h) and private ones (io/x.h, ../io/x.h) name the layer.
      my ($other) = $header =~ m{(?:^|/)(?:msplora/)?([a-z]+)/[^/]+$};
      next unless defined $other && $allowed{$other} && $header !~ m{^(torch|ATen|c10)/};
      if ($layer && !$may{$other}) {
        push @wrong, "$file:$.: includes $header, but layer \"$layer\" may only include: "
            . join(", ", sort keys %may);
      }
      if ($torch_free && !$layer && !$torch_free{$other}) {
        push @wrong, "$file:$.: includes $header, which needs libtorch";
      }
    }
  }
  if (!$files) { print STDERR "check-layers: no C++ files are tracked\n"; exit 1; }
  if (@wrong) {
    print STDERR "$_\n" for @wrong;
    print STDERR "check-layers: FAILED, ", scalar(@wrong), " wrong lines\n";
    exit 1;
  }
  print "check-layers: $includes includes in $files files point downwards\n";'
