#!/usr/bin/env bash
# The scripts are free of what shellcheck knows to be mistakes, and refuse what they do not know.
set -euo pipefail

shellcheck .ci/run tests/gpu/rehearsal_test.sh tests/interop/run tools/quickstart tools/setup tools/test

code=0
tools/setup --frobnicate 2> /dev/null || code=$?
if ((code != 2)); then
  echo "tools/setup --frobnicate ended with exit code ${code}, wanted 2" >&2
  exit 1
fi
