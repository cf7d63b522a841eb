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
    compare* | evidence*) kind=(--compare) ;;
  esac
  "$MSPLORA" validate "$recipe" "${kind[@]}" > out.txt 2>&1 || status=$?
  if grep -qE "unknown key|expected (a|an|at|above|true) |not valid YAML" out.txt; then
    cat out.txt >&2
    fail "$recipe cannot be read"
  fi
done

# Every published table is what the program makes of the single runs that were measured.
for runs in "$SOURCE_DIR"/docs/evidence/*.json; do
  [ -e "$runs" ] || continue
  expect 0 -- "$MSPLORA" results "$runs"
  perl -0777 -e '
    my ($table, $page) = map { open(my $in, "<", $_) or die "$_: $!"; <$in> } @ARGV;
    exit(index($page, $table) < 0);
  ' out.txt "$SOURCE_DIR/docs/results.md" || fail "docs/results.md does not hold what msplora results docs/evidence/$(basename "$runs") prints"
done
