# shellcheck shell=bash
# What the tests of the scripts share. Sourced with the source tree as $1; gives $root, an empty folder $work, and the checks below.
set -euo pipefail

root=$1
work=$(mktemp -d)
export work # for stand-ins
trap 'rm -rf "$work"' EXIT
failures=0

# expect_equal WHAT GIVEN EXPECTED
expect_equal() {
  [[ $2 == "$3" ]] && return
  printf '%s\n  given:    %s\n  expected: %s\n' "$1" "$2" "$3"
  failures=$((failures + 1))
}

# stand_in NAME BODY: a program of that name in $work/bin
stand_in() {
  mkdir -p "$work/bin"
  printf '#!/bin/bash\n%s\n' "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

# capture COMMAND...: sets $output (both streams) and $code
capture() {
  code=0
  output=$("$@" 2>&1) || code=$?
}

# The last line of a test.
finish() {
  ((failures == 0)) || exit 1
}
