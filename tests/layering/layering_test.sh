#!/usr/bin/env bash
set -euo pipefail
exec python3 tests/layering/layering_test.py
