# shellcheck shell=bash
# For tests of the built program: a small model, a text, and the checks that they share. Source after support.sh; $2 is the program.
program=$2
export ROPEWALK_PROGRAM=$program OMP_NUM_THREADS=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

for ((chapter = 0; chapter < 60; ++chapter)); do
  for ((verse = 0; verse < 6; ++verse)); do
    echo "And it came to pass in the days of king $((chapter * 7 % 13)), that $((verse * chapter % 11)) strands were laid into one rope."
  done
  printf '\f'
done >"$work/text.txt"

cat >"$work/tiny.yaml" <<YAML
model:
  d_model: 32
  blocks:
    M: {mixer: mamba2, heads: 4, head_dim: 16, state: 8, chunk: 16}
    A: {mixer: attention, heads: 4, kv_heads: 2, rope: {theta: 10000}}
    F: {ffn: mlp, hidden: 48}
  layout: {ratio: "1:1", of: [M, A], layers: 2, ffn: F}
optimizer:
  lr: 1.0e-2
  schedule: {type: constant, warmup: 3}
  groups:
    - {name: ssm, match: {kind: ssm}, lr: 5.0e-3}
data:
  source: {type: text, path: $work/text.txt, documents: form_feed}
  seq_len: 64
  validation: 0.1
train: {steps: 6, batch: 8, micro_batch: 2, precision: bf16}
checkpoint: {every: 2, keep: 10}
run: {dir: $work/run}
YAML

# train RANKS [key=value ...]: sets $output and $code
train() { capture "$root/launch/run" -n "$1" train "$work/tiny.yaml" "${@:2}"; }
# The digest of a run's newest checkpoint.
digest() { "$program" inspect --digest "$1/checkpoints/$(cat "$1/checkpoints/latest")"; }
