#!/usr/bin/env bash
# What tests/gpu/run tries on a GPU, with ranks that are processes, goes well on the CPU.
set -euo pipefail

programs="${TEST_TMPDIR}/programs"
mkdir -p "${programs}"
for program in tools/train tools/inspect tools/convert tests/gpu/collective_ranks; do
  ln -sf "${PWD}/${program}" "${programs}"
done
tests/gpu/run --bin "${programs}" --device cpu
