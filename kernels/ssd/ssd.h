// Mamba-2's state-space duality (Dao & Gu 2024, section 6), chunked. Per head h with group g = h * G / H:
//   dt_t = clamp(softplus(dt_raw_t + dt_bias), dt_low, dt_high),  a_t = -exp(a_log) * dt_t,
//   S_t = exp(a_t) S_{t-1} + dt_t v_t b_t^T   (S [P, N]),   y_t = S_t c_t + d_skip * v_t.
// Each run is cut into chunks of `chunk` tokens from its start, the last one shorter. Two ops, with the state hand-over between them:
//   states = ssd_chunk_states(in)            decay [C, H] = exp(sum of a in the chunk), local [C, H, P, N] = the state it adds
//   h0     = enter_state(states, ...)        parallel/: the state that enters each chunk [C, H, P, N]
//   y      = ssd_chunk_outputs(in, h0)       [B, S, H, P]
// C counts the chunks of all runs in order (`ssd_chunks` lists them). States, decays and h0 are of the wide type.
// Where h0 is still on its way, ssd_chunk_outputs does its work inside the chunks before it first reads it. An empty h0 counts as zeros.
// Both keep their inputs and compute everything else again in backward.
#pragma once

#include <limits>

#include "kernels/autograd/tape.h"
#include "kernels/tensor/runs.h"

namespace ropewalk {

struct SsdInputs {
  Var v;        // [B, S, H, P], dtype T, last dim dense
  Var dt;       // [B, S, H] rows, dtype T, before softplus
  Var b, c;     // [B, S, G, N], dtype T, last dim dense
  Var a_log;    // [H] wide, parameter
  Var dt_bias;  // [H] wide, parameter
  Var d_skip;   // [H] wide, parameter
  const Runs& runs;
  int64_t chunk = 128;
  double dt_low = 0, dt_high = std::numeric_limits<double>::infinity();
};

struct SsdChunk {
  int64_t row, begin, length, run;
};
std::vector<SsdChunk> ssd_chunks(const Runs& runs, int64_t chunk);
// Where each run's chunks begin, and one past the last: R + 1 entries, as affine_scan takes them.
std::vector<int64_t> ssd_first_chunks(const Runs& runs, int64_t chunk);

struct SsdStates {
  Var decay;  // [C, H]
  Var local;  // [C, H, P, N]
};
SsdStates ssd_chunk_states(const SsdInputs& in);
Var ssd_chunk_outputs(const SsdInputs& in, const Var& h0);

// What the launches below have in common. ssd_chunk_states leaves c and d_skip empty.
struct SsdOperands {
  Tensor v, dt, b, c = {}, a_log, dt_bias, d_skip = {};
  std::vector<SsdChunk> chunks;
  double dt_low, dt_high;
};

// Gradients of the operands: those of v, dt, b and c as their operands and overwritten, those of the parameters added to (empty: not
// wanted).
struct SsdGradients {
  Tensor v, dt, b, c = {}, a_log, dt_bias, d_skip = {};
};

struct SsdStatesForward {
  const Tensor &decay, &local;
  const SsdOperands& in;
};
void launch(Cpu, const SsdStatesForward& args);
void launch(Cuda, const SsdStatesForward& args);

struct SsdStatesBackward {
  const SsdGradients& gradients;
  const Tensor &d_decay, &d_local;
  const SsdOperands& in;
};
void launch(Cpu, const SsdStatesBackward& args);
void launch(Cuda, const SsdStatesBackward& args);

struct SsdOutputsForward {
  const Tensor& y;
  const SsdOperands& in;
  const Tensor& h0;  // empty: zeros
};
void launch(Cpu, const SsdOutputsForward& args);
void launch(Cuda, const SsdOutputsForward& args);

struct SsdOutputsBackward {
  const SsdGradients& gradients;
  const Tensor& d_h0;  // empty: not wanted
  const Tensor& dy;
  const SsdOperands& in;
  const Tensor& h0;  // empty: zeros
};
void launch(Cpu, const SsdOutputsBackward& args);
void launch(Cuda, const SsdOutputsBackward& args);
// The products over chunks, of which those of two tokens count the causal half.
Effort effort(const SsdStatesForward& args);
Effort effort(const SsdStatesBackward& args);
Effort effort(const SsdOutputsForward& args);
Effort effort(const SsdOutputsBackward& args);

}  // namespace ropewalk
