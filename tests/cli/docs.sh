# docs/config.md is what the program writes.
. "$(dirname "$0")/lib.sh"

expect 0 -- "$MSPLORA" docs-config
diff -u "$SOURCE_DIR/docs/config.md" out.txt >&2 || fail "docs/config.md is out of date: run msplora docs-config > docs/config.md"

# Every recipe of the repository can be read: the only problems may be files that are made later.
for recipe in "$SOURCE_DIR"/recipes/*.yaml; do
  status=0
  kind=()
  case $(basename "$recipe") in
    pretrain*) kind=(--pretrain) ;;
    federated*) kind=(--federate) ;;
    compare* | evidence*) kind=(--compare --set 'compare.methods=[all]') ;;  # with every variant
  esac
  "$MSPLORA" validate "$recipe" "${kind[@]}" > out.txt 2>&1 || status=$?
  if grep -qE "unknown key|expected (a|an|at|above|true) |not valid YAML" out.txt; then
    cat out.txt >&2
    fail "$recipe cannot be read"
  fi
done

# Every published table and picture is what is made of the single runs that were measured.
published() {
  perl -0777 -e '
    my ($table, $page) = map { open(my $in, "<", $_) or die "$_: $!"; <$in> } @ARGV;
    exit(index($page, $table) < 0);
  ' "$1" "$SOURCE_DIR/docs/results.md"
}
for runs in "$SOURCE_DIR"/docs/evidence/*.json; do
  [ -e "$runs" ] || continue
  expect 0 -- "$MSPLORA" results "$runs"
  published out.txt || fail "docs/results.md does not hold what msplora results docs/evidence/$(basename "$runs") prints"
  [ -e "${runs%.json}.svg" ] || continue
  "$MSPLORA" results "$runs" --svg | cmp - "${runs%.json}.svg" || fail "${runs%.json}.svg is another picture: msplora results --svg makes it"
done
for numbers in "$SOURCE_DIR"/docs/evidence/*.csv; do
  [ -e "$numbers" ] || continue
  "$SOURCE_DIR/scripts/evidence-analysis.pl" table "$numbers" > table.md
  published table.md || fail "docs/results.md does not hold what scripts/evidence-analysis.pl table docs/evidence/$(basename "$numbers") prints"
  case $numbers in
    *-answers.csv) reference=lora ;;
    *-aggregators.csv) reference=fedit ;;
    *) continue ;;
  esac
  "$SOURCE_DIR/scripts/evidence-analysis.pl" differences "$numbers" "$reference" > table.md
  published table.md ||
    fail "docs/results.md does not hold what scripts/evidence-analysis.pl differences docs/evidence/$(basename "$numbers") $reference prints"
done
