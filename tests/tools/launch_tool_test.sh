#!/bin/bash
# The launcher from outside: real ranks that train and resume, signals, and ranks that fail.
set -u
launch="$(pwd)/$1"
cd "${TEST_TMPDIR}" || exit 1
unset BUILD_WORKING_DIRECTORY RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT

fail() {
  echo "FAIL: $*" >&2
  cat out err >&2
  exit 1
}

# expect CODE ARGUMENTS...: runs the launcher, keeps its output in out and err.
expect() {
  local wanted="$1"
  shift
  "${launch}" "$@" > out 2> err
  local code=$?
  [[ "${code}" == "${wanted}" ]] || fail "exit code ${code}, wanted ${wanted}: launch $*"
}

says() { grep -q -- "$1" out err || fail "says nothing of \"$1\""; }

seq 3000 > data.txt
cat > run.textproto << 'END'
steps: 4
output: "one"
threads: 1
mesh { timeout_seconds: 30 }
data { path: "data.txt" kind: BYTES batch_size: 6 sequence_length: 8 }
optimizer { lr: 0.01 }
schedule { decay_steps: 10 }
model {
  hidden_size: 12
  vocab_size: 61
  embeddings { embedding_scale: 1 }
  decoder { num_blocks: 2 fixed {
    mixer { attention {
      heads: 6 head_groups: 6 head_size: 4 rotary { theta: 10000 standard {} } causal: true softmax_scale_power: 0.5
    } }
    mlp { dense { intermediate_size: 12 gated: true activation: SILU } }
    normalization { kind: RMS_NORM epsilon: 1e-5 }
  } }
  head { normalization { kind: RMS_NORM epsilon: 1e-5 } logits_scale_factor: 1 prediction_heads: 1 }
}
END

# Losses of a run, one per line.
losses() { sed 's/.*"loss": *\([^,]*\),.*/\1/' "$1/metrics.jsonl"; }

# One rank trains; four do the same, stop half way, and three others go on.
expect 0 1 -- run.textproto
expect 0 4 -- run.textproto output=many mesh.tensor=2 mesh.pipeline=2 steps=2
says "4 ranks: pipeline 2, data 1, tensor 2"
[[ -e many/checkpoint/step-00000002/rank-00003-of-00004.safetensors ]] || fail "no file of rank 3"
expect 0 3 -- run.textproto output=many mesh.tensor=3 --json
says "saved by 4 ranks, continued by 3"
grep -q '"last_step": *4' out || fail "no summary"
paste <(losses one) <(losses many) | awk '
  { difference = $1 - $2; if (difference > 1e-5 || difference < -1e-5) exit 1; rows++ }
  END { exit rows != 4 }' || fail "losses differ: $(paste <(losses one) <(losses many))"

# A signal saves and stops all; the same command goes on.
"${launch}" 2 -- run.textproto output=signal steps=1000000 log_interval=1000000 > out 2> err &
pid=$!
while ! grep -q '"step": *3' signal/metrics.jsonl 2> /dev/null; do
  kill -0 "${pid}" || fail "ended early"
  sleep 0.1
done
kill -TERM "${pid}"
wait "${pid}"
code=$?
[[ "${code}" == 130 ]] || fail "exit code ${code} after a signal"
says "stopped by signal 15"
ls signal/checkpoint/step-*/distributed.pb > /dev/null || fail "nothing was saved"

# Ranks that fail are named, and end the others.
expect 7 3 --program /bin/sh -- -c 'test "$RANK" = 1 && exit 7; exec sleep 60'
says "rank 1 failed with exit code 7"
expect 139 2 --program /bin/sh -- -c 'test "$LOCAL_RANK" = 0 && kill -SEGV $$; exec sleep 60'
says "rank 0 was killed by signal 11"
# The first one, whatever those that follow return.
expect 1 2 --program /bin/sh -- -c 'trap "" TERM; sleep 0.5; test "$RANK" = 0 && exit 1; sleep 0.5; exit 5'
says "rank 0 failed with exit code 1"
# Ranks that only lost another one may be quicker than the one that failed.
expect 5 2 --program /bin/sh -- -c 'trap "" TERM; sleep 0.5
  test "$RANK" = 0 && echo "error: E_RANK: rank 1 died" >&2 && exit 1; sleep 0.5; exit 5'
says "rank 1 failed with exit code 5"
# An error of all is printed once, and is one document.
expect 2 2 -- run.textproto output=refused mesh.tensor=7 --json
says "divides the 2 ranks"
[[ "$(grep -c "^\(\[1\] \)\?error: E_" err)" == 1 ]] || fail "not one error"
[[ "$(grep -c '"error"' out)" == 1 ]] || fail "not one document"
expect 5 3 -- absent.textproto --json
[[ "$(grep -c "^\(\[[12]\] \)\?error: E_" err)" == 1 ]] || fail "not one error"
[[ "$(grep -c '"error"' out)" == 1 ]] || fail "not one document"
# A rank that says that it was stopped is believed, whoever sent the signal.
expect 130 2 --program /bin/sh -- -c 'exit 130'
# Whoever reads stands still: a signal is heard all the same.
mkfifo still
"${launch}" 2 --program /bin/sh -- -c 'trap "exit 130" TERM; while :; do echo 0123456789012345678901234567890123456789; done' > still 2> err &
pid=$!
exec 9< still
sleep 1
kill -TERM "${pid}"
wait "${pid}"
code=$?
exec 9<&-
[[ "${code}" == 130 ]] || fail "exit code ${code} with a reader that stands still"
# A rank that is stopped gives no sign: a second signal ends it, too.
"${launch}" 2 --program /bin/sh -- -c 'echo up; test "$RANK" = 1 && kill -STOP $$; trap "exit 130" TERM; sleep 60 & wait' > out 2> err &
pid=$!
while [[ "$(grep -c up out)" != 2 ]]; do
  sleep 0.1
done
sleep 0.3
kill -TERM "${pid}"
sleep 0.5
kill -0 "${pid}" || fail "did not wait for the rank that is stopped"
kill -TERM "${pid}"
wait "${pid}"
code=$?
[[ "${code}" == 130 ]] || fail "exit code ${code} after two signals"
# A file that may not grow is an error with a name, not a death.
(ulimit -f 8; expect 5 1 -- run.textproto output=limited)
says "ulimit -f"

# Output is whole lines, by rank; the environment is torchrun's.
expect 0 3 --port 29555 --program /bin/sh -- -c 'echo "$RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"; printf end >&2'
[[ "$(sort out)" == "$(printf '0 3 3 127.0.0.1:29555\n[1] 1 3 3 127.0.0.1:29555\n[2] 2 3 3 127.0.0.1:29555')" ]] ||
  fail "lines"
[[ "$(sort err)" == "$(printf '[1] end\n[2] end\nend')" ]] || fail "last lines"

# Wrong requests.
expect 2 0 -- run.textproto
expect 2
expect 2 2 --program /nonexistent
says "cannot be run"
expect 0 --help
says "launch N -- CONFIG.textproto"
echo PASS
