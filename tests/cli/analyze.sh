# Runs and adapters are analysed; what the sentences recommend can be trained; levels can be left out of a score.
. "$(dirname "$0")/lib.sh"

recipe | sed 's/epochs: 4/epochs: 2, save_every: 5, keep_checkpoints: 10/' > recipe.yaml
"$MSPLORA" train recipe.yaml > /dev/null 2>&1
"$MSPLORA" train recipe.yaml --set adapter.method=lora --set output.dir=lora > /dev/null 2>&1

# A run, with the names of the levels, its numbers beside the base, and its sentences.
expect 0 "msplora, 3 levels, ranks 8 4 2" "global, shared" "mid" "layer" "mean |cosine|" "amplification" \
  "layer.2.attention.self.value" "intruders: no direction" -- "$MSPLORA" analyze run --sites
# Beside another one, over checkpoints, as JSON and as tables.
expect 0 "Beside each other" "the updates of lora" -- "$MSPLORA" analyze run lora --csv tables
for table in parts values layers levels findings; do
  [ -s "tables/$table.csv" ] || fail "no tables/$table.csv"
done
[ "$(grep -c ,whole, tables/parts.csv)" = 12 ] || fail "not one row for each of the 6 sites of both adapters"
expect 0 "phi to the end" "   5" -- "$MSPLORA" analyze run --checkpoints
"$MSPLORA" analyze run --checkpoints --json > run.json
perl -MJSON::PP -e '
  local $/; my $report = decode_json(<STDIN>); my $it = $report->{adapters}[0];
  my $curves = $it->{curves}; my $last = $curves->{levels}[1];
  die "no curves" unless @{$curves->{steps}} > 2 && $last->{part} eq "global";
  die "the end overlaps with itself" unless abs($last->{phi_left}[-1] - 1) < 1e-9;
  # The run ends with its best checkpoint or the last one: the curve passes through the adapter.
  my $norm = 0; $norm += $_->{whole}{norm} / @{$it->{sites}} for @{$it->{sites}};
  die "no checkpoint is the adapter" unless grep { abs($_ - $norm) < 1e-9 * $norm } @{$curves->{levels}[0]{norm}};
' < run.json || fail "curves"

# The page: refused where it would replace a file; names are text in it, and nothing is loaded.
cp -r lora 'lora<b>&"'
expect 0 -- "$MSPLORA" analyze run 'lora<b>&"' --checkpoints --report page.html
expect 1 "page.html" "--overwrite" -- "$MSPLORA" analyze run --report page.html
expect 0 -- "$MSPLORA" analyze run --report page.html --overwrite
expect 2 "--report" -- "$MSPLORA" analyze run --report run/adapter-native/adapter.json --overwrite
"$MSPLORA" analyze run 'lora<b>&"' --report page.html --overwrite > /dev/null
for text in 'lora&lt;b&gt;&amp;&quot;' '>Spectra</h2>' '>Layers beside each other</h2>' 'What would count against it:'; do
  grep -qF -- "$text" page.html || fail "expected \`$text\` in the page"
done
! grep -qE '<b>&|http:|https:|<script' page.html || fail "the page loads or runs something"

# Forms: native, PEFT (whose levels are joined) and without the base, where the numbers of the update stay the same.
expect 0 "run/adapter" "update" -- "$MSPLORA" analyze run/adapter
whole() { perl -MJSON::PP -e 'local $/; my $r = decode_json(<STDIN>); printf "%.6g\n", $_->{whole}{norm} for @{$r->{adapters}[0]{sites}}'; }
"$MSPLORA" analyze run --json | whole > with.txt
"$MSPLORA" analyze run/adapter --json | whole > peft.txt
"$MSPLORA" analyze run --no-base --json | whole > without.txt
cmp with.txt without.txt
cmp with.txt peft.txt
cp -r run/adapter-native alone
sed -i 's#"name": ".*"#"name": "somewhere/else"#' alone/adapter.json
expect 0 "somewhere/else) are not at hand" -- "$MSPLORA" analyze alone
"$MSPLORA" analyze alone --json | whole | cmp - with.txt
expect 0 "are not at hand" -- "$MSPLORA" analyze alone --base "$data/shape"
expect 0 "amplification" -- "$MSPLORA" analyze alone --base "$model" --sites

# The recipe of a sentence can be trained: rank 8 of an update of 20 steps is more than it uses.
"$MSPLORA" analyze run lora --json | perl -MJSON::PP -e '
  local $/; my $r = decode_json(<STDIN>);
  for my $finding (map { @{$_->{findings}} } @{$r->{adapters}}) { if ($finding->{recipe}) { print $finding->{recipe}; last; } }
' > snippet.yaml
[ -s snippet.yaml ] || fail "no sentence has a recipe"
{ recipe | grep -v '^adapter:' | sed 's/dir: run,/dir: smaller,/'; cat snippet.yaml; } > smaller.yaml
expect 0 "no problem found" -- "$MSPLORA" validate smaller.yaml

# What cannot be analysed is refused by name.
"$MSPLORA" train recipe.yaml --set adapter.method=bitfit --set output.dir=bitfit > /dev/null 2>&1
expect 2 "method \`bitfit\`" "vectors" -- "$MSPLORA" analyze bitfit
expect 1 "holds no adapter" -- "$MSPLORA" analyze "$data"
expect 2 "has no checkpoints" -- "$MSPLORA" analyze alone --checkpoints
"$MSPLORA" train recipe.yaml --set adapter.method=full --set train.max_steps=3 --set output.dir=full > /dev/null 2>&1
expect 0 "full" -- "$MSPLORA" analyze full --sites
expect 2 "method \`full\`" "the base itself" -- "$MSPLORA" analyze full --no-base

# eval --ablate-levels: each level left out, and the whole as without the option.
"$MSPLORA" eval --model "$model" --adapter run/adapter-native --data "$data/test.tsv" --json > plain.json
"$MSPLORA" eval --model "$model" --adapter run/adapter-native --data "$data/test.tsv" --ablate-levels --json > ablated.json
perl -MJSON::PP -e '
  sub report { open(my $in, "<", $_[0]) or die; local $/; return decode_json(<$in>)->{results}[0]; }
  my ($plain, $ablated) = (report("plain.json"), report("ablated.json"));
  for my $name (keys %{$plain->{metrics}}) { die "$name differs" if $plain->{metrics}{$name} != $ablated->{metrics}{$name}; }
  die "levels" unless join(" ", sort keys %{$ablated->{without}}) eq "global layer mid";
  die "leaving out changed no loss" if $ablated->{without}{global}{loss} == $plain->{metrics}{loss};
' || fail "ablation"
expect 0 "without mid:" -- "$MSPLORA" eval --model "$model" --adapter run/adapter-native --data "$data/test.tsv" --ablate-levels
expect 2 "has no levels" "adapter-native" -- "$MSPLORA" eval --model "$model" --adapter run/adapter --data "$data/test.tsv" --ablate-levels

# eval --landscape: the loss is that of the adapter, which stays in use for the next file.
"$MSPLORA" eval --model "$model" --adapter run/adapter-native --data "$data/test.tsv" "$data/test.tsv" --landscape --json > around.json
perl -MJSON::PP -0777 -ne '
  my ($first, $second) = @{decode_json($_)->{results}};
  exit 1 unless abs($first->{landscape}{loss} - $first->{metrics}{loss}) < 1e-5;
  exit 2 unless $first->{metrics}{loss} == $second->{metrics}{loss};
  exit 3 unless @{$first->{landscape}{around}} == 3 && $first->{landscape}{around}[0]{uphill} > $first->{landscape}{loss};
  exit 4 unless $first->{landscape}{plain_cosine} > 0 && $first->{landscape}{plain_cosine} < 1;
' around.json || fail "the landscape is wrong ($?)"
expect 0 "uphill with a tenth of it" "a step of the factors misses" -- "$MSPLORA" eval --model "$model" --adapter run/adapter --data "$data/test.tsv" --landscape
expect 2 "there is no adapter" -- "$MSPLORA" eval --model "$model" --data "$data/test.tsv" --landscape

# Runs of one name are told apart by the folders above them.
mkdir -p first/same second/same
cp -r run/. first/same/ && cp -r run/. second/same/
expect 0 "first/same: " "second/same: " -- "$MSPLORA" analyze first/same second/same
