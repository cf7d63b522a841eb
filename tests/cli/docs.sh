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
    compare*) kind=(--compare) ;;
  esac
  "$MSPLORA" validate "$recipe" "${kind[@]}" > out.txt 2>&1 || status=$?
  if grep -qE "unknown key|expected (a|an|at|above|true) |not valid YAML" out.txt; then
    cat out.txt >&2
    fail "$recipe cannot be read"
  fi
done
