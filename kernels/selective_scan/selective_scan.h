// Mamba-1's selective scan (Gu & Dao 2023, algorithm 2), token by token. For channel c of head h = c * H / C, over the tokens t of a run:
//   dt_t = softplus(dt_raw_t + dt_bias),   A = -exp(a_log),
//   h_t[n] = exp(dt_t A[n]) h_{t-1}[n] + dt_t x_t b_t[n],   y_t = sum_n h_t[n] c_t[n] + d_skip x_t,
// and, where there is a gate z, y_t silu(z_t) instead of y_t.
//
// What enters a run is h0[run.enters], or zeros where it opens a document; what leaves it is the state after its last token. The states
// [B, S, C, N] are never in memory: backward starts from those at the borders of chunks of 64 tokens, and computes the rest again.
//
// Floor of one thread, in vectors of 16 channels of one state and token: forward is an exponential (12 instructions) and 4 more, backward
// the same again and 11 more. At two instructions a cycle and 3.2 GHz, B = 4, S = C = 1024, N = 16 (4.2 M vectors, 67 M exponentials)
// takes 11 ms forward and 18 ms backward.
#pragma once

#include "kernels/autograd/tape.h"
#include "kernels/tensor/runs.h"

namespace ropewalk {

struct SelectiveScanInputs {
  Var x;        // [B, S, C] rows, dtype T
  Var dt;       // [B, S, C] rows, dtype T, before softplus
  Var z;        // [B, S, C] rows, dtype T; empty: no gate
  Var b, c;     // [B, S, H, N], dtype T, last dim dense; H divides C
  Var a_log;    // [C, N] wide, parameter
  Var dt_bias;  // [C] wide, parameter
  Var d_skip;   // [C] wide, parameter
  Var h0;       // [E, C, N] wide: the states that runs continue from, each by one run at most; empty: zeros
  const Runs& runs;
};

struct SelectiveScan {
  Var y;        // [B, S, C], dtype T
  Var leaving;  // [R, C, N] wide
};
SelectiveScan selective_scan(const SelectiveScanInputs& in);

// What the launches below have in common.
struct SelectiveScanOperands {
  Tensor x, dt, z, b, c, a_log, dt_bias, d_skip, h0;
  Runs runs;
};

// A function that gives them now or in backward: it keeps parameters as leaves, whose working copy may be another one by then.
std::function<SelectiveScanOperands()> operands_of(const SelectiveScanInputs& in);

// The shape of the states at chunk borders, in a layout of the launches' own.
Shape selective_scan_borders(const SelectiveScanOperands& in);

struct SelectiveScanForward {
  const Tensor &y, &leaving;
  const Tensor& borders;  // out, wide; empty: not wanted
  const SelectiveScanOperands& in;
};
void launch(Cpu, const SelectiveScanForward& args);
void launch(Cuda, const SelectiveScanForward& args);

// Gradients of the operands: those of x, dt, z (empty where z is), b and c dense and overwritten, that of h0 overwritten where a run
// enters, those of the parameters added to. Empty h0 and parameters: not wanted.
struct SelectiveScanGradients {
  Tensor x, dt, z, b, c, a_log, dt_bias, d_skip, h0;
};
struct SelectiveScanBackward {
  const SelectiveScanGradients& gradients;
  const Tensor& dy;         // rows
  const Tensor& d_leaving;  // dense; empty: zeros
  const Tensor& borders;
  const SelectiveScanOperands& in;
};
void launch(Cpu, const SelectiveScanBackward& args);
void launch(Cuda, const SelectiveScanBackward& args);

// What each run does to the state that enters it, h -> decay h + left, whatever that is: what a rank tells others before it knows what
// enters its own runs. Reads neither h0 nor what concerns the outputs alone.
struct SelectiveScanSummary {
  const Tensor &decay, &left;  // [R, C, N] wide
  const SelectiveScanOperands& in;
};
void launch(Cpu, const SelectiveScanSummary& args);
void launch(Cuda, const SelectiveScanSummary& args);

// The gradient of the state before each run, where none comes back from behind the run. Reads dt, z, c and the parameters.
struct SelectiveScanAdjoint {
  const Tensor& d_entering;  // [R, C, N] wide
  const Tensor& dy;          // rows
  const SelectiveScanOperands& in;
};
void launch(Cpu, const SelectiveScanAdjoint& args);
void launch(Cuda, const SelectiveScanAdjoint& args);

// Three multiply-adds a token and state forward (take in, decay, read); backward runs it again and has twice as many of its own.
Effort effort(const SelectiveScanForward& args);
Effort effort(const SelectiveScanBackward& args);
// Two: take in and decay; read and decay.
Effort effort(const SelectiveScanSummary& args);
Effort effort(const SelectiveScanAdjoint& args);

}  // namespace ropewalk
