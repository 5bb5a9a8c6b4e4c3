#!/bin/bash
# The train command from outside: exit codes, --dry-run, --json, a signal and the resume after it.
set -u
train="$(pwd)/$1"
cd "${TEST_TMPDIR}"
unset BUILD_WORKING_DIRECTORY

fail() {
  echo "FAIL: $*" >&2
  cat out err >&2
  exit 1
}

# expect CODE ARGUMENTS...: runs the tool, keeps its output in out and err.
expect() {
  local wanted="$1"
  shift
  "${train}" "$@" > out 2> err
  local code=$?
  [[ "${code}" == "${wanted}" ]] || fail "exit code ${code}, wanted ${wanted}: train $*"
}

says() { grep -q -- "$1" out err || fail "says nothing of \"$1\""; }

seq 2000 > data.txt
cat > run.textproto << 'END'
steps: 4
output: "run"
threads: 1
data { path: "data.txt" kind: BYTES batch_size: 1 sequence_length: 8 }
model {
  hidden_size: 8
  vocab_size: 256
  embeddings { embedding_scale: 1 }
  decoder { num_blocks: 1 fixed {
    mixer { attention {
      heads: 1 head_groups: 1 head_size: 8 rotary { theta: 10000 standard {} } causal: true softmax_scale_power: 0.5
    } }
    mlp { dense { intermediate_size: 8 gated: true activation: SILU } }
    normalization { kind: RMS_NORM epsilon: 1e-5 }
  } }
  head { normalization { kind: RMS_NORM epsilon: 1e-5 } logits_scale_factor: 1 prediction_heads: 1 }
}
END

expect 0 --help
says "key.sub=value"
expect 2
expect 2 run.textproto optimiser.lr=1
says "which has model, pretrained"
expect 2 run.textproto steps=-1
expect 5 none.textproto
expect 5 run.textproto data.path=none
[[ ! -e run ]] || fail "a refused run left files"

expect 0 run.textproto --dry-run optimizer.lr=0.25
says "lr: 0.25"
[[ ! -e run ]] || fail "a dry run left files"

expect 3 run.textproto --dry-run model.decoder.fixed.mixer.attention.dropout=0.5
says "cannot train 1 part of the config: decoder.fixed.mixer.attention.dropout is 0.5"

# What only the export would refuse, without a run.
expect 2 run.textproto --dry-run export.format=native 'export.format_options={key: "parts" value: "3"}'
says "parts"

# A run too long to end by itself, stopped by a signal once it has made a step.
"${train}" run.textproto steps=100000000 > out 2> err &
pid=$!
until grep -q "step 1/" err; do
  kill -0 "${pid}" || fail "the run ended early"
  sleep 0.1
done
kill -TERM "${pid}"
wait "${pid}"
[[ $? == 130 ]] || fail "a stopped run exits with 130"
says "the same command continues"
[[ "$(ls run/checkpoint)" == step-* ]] || fail "a stopped run saves"
steps="$(wc -l < run/metrics.jsonl)"

expect 0 run.textproto --json "steps=$((steps + 2))"
says "\"first_step\": ${steps},"
says "\"last_step\": $((steps + 2)),"
[[ "$(wc -l < run/metrics.jsonl)" == "$((steps + 2))" ]] || fail "one line per step in metrics.jsonl"

expect 3 run.textproto model.decoder.fixed.mixer.attention.rotary.theta=3
says "theta: 10000 != 3"

# Other data: refused by both, and told where they are allowed.
cp data.txt data.kept
seq 3000 > data.txt
expect 2 run.textproto --dry-run
says "data.allow_changed: true"
expect 2 run.textproto "steps=$((steps + 3))"
says "that of the run so far had"
expect 0 run.textproto --dry-run data.allow_changed=true
says "the run goes on with it"
mv data.kept data.txt

# A token outside the vocabulary, before anything is written.
expect 2 run.textproto output=small model.vocab_size=50
says "token 2 is 50, the model's vocabulary has 50"
[[ ! -e small ]] || fail "a refused run left files"

# Without its checkpoints the run does not begin anew unasked.
mv run/checkpoint elsewhere
expect 2 run.textproto --dry-run
says "E_EXISTS"
expect 2 run.textproto
says "start_over: true"
expect 0 run.textproto start_over=true export.format=none
[[ "$(wc -l < run/metrics.jsonl)" == 4 ]] || fail "a run that begins over has its own history"
[[ "$(wc -l < run/metrics.jsonl.before-1)" == "$((steps + 2))" ]] || fail "the history of the earlier run is kept"

# A damaged checkpoint: told by a dry run, renamed by a run.
newest="run/checkpoint/$(ls run/checkpoint | tail -n 1)"
truncate -s -1 "${newest}/model.safetensors"
expect 3 run.textproto resume.on_damage=STOP
expect 3 run.textproto
says "no checkpoint of the run is whole"
expect 0 run.textproto --dry-run start_over=true
says "is damaged and is left aside"
[[ -e "${newest}" ]] || fail "a dry run renamed a checkpoint"
expect 0 run.textproto start_over=true
[[ -e "${newest}.damaged" && -e "${newest}" ]] || fail "a damaged checkpoint is renamed"
echo PASS
