// What travels with a forward pass: the Carry (all that may cross a block, a recomputed segment or a stage border) and the Context
// (read-only facts of this microbatch on this rank).
#pragma once

#include <compare>
#include <map>
#include <span>

#include "kernels/autograd/tape.h"
#include "parallel/comm/group.h"
#include "parallel/layout.h"

namespace ropewalk {

// Something published for later sub-layers.
struct Slot {
  enum Kind { kEmbedding, kKeyValue, kMemory, kMeta };
  Kind kind;
  int producer;  // the layer that publishes it
  auto operator<=>(const Slot&) const = default;
};

struct Carry {
  Var x;                        // residual stream [B, S, D]; under sequence parallelism a tensor rank's slice of S
  std::map<Slot, Vars> shared;  // live publications; a slot dies after its last reader
  // What the objective is made of, as scalars; seeded on the stage that makes them.
  Vars losses{};        // auxiliary ones, weighted: sums over the rows (of context ranks, this one's part of them)
  Var cross_entropy{};  // from the last stage: nats, summed over this rank's scored targets
};

// How many tensors a slot holds.
inline int64_t width_of(const Slot& slot) { return slot.kind == Slot::kKeyValue ? 2 : 1; }

// The stream and these slots as a list, and back: how a Carry goes through a recomputed segment or over a stage border.
Vars flatten(const Carry& carry, const std::vector<Slot>& slots);
// Returns where the list goes on behind the slots.
Vars::const_iterator unflatten(const Vars& vars, const std::vector<Slot>& slots, Carry& carry);

// What a sub-layer reads and publishes: known when the model is built, so the stage cut sends exactly the live slots.
struct Ports {
  std::vector<Slot> reads, writes;
};

// What a call site remembers between calls in decoding: keys and values | convolution tail and scan state.
struct State {
  Tensors tensors;
  int64_t length = 0;  // tokens seen
};

struct ContextParallel {
  Group group;
  int64_t pieces = 1;  // a row and rank
  Group slices{};      // those that hold other tokens of the same rows outside of tp_enter and tp_leave: with sequence parallelism the
                       // tensor ranks of each rank of `group`, in its order; else `group` again
};

struct Microbatch {
  Layout layout;
  Tensor tokens_BS;   // int64, this rank's
  Tensor targets_BS;  // int64, kIgnored where nothing is scored; empty when nothing is to be scored

  Microbatch to(Device device) const {
    Microbatch there = *this;
    for (Tensor* part : {&there.layout.position_BS, &there.tokens_BS, &there.targets_BS})
      if (*part) *part = part->to(device);
    return there;
  }
};

class Health;  // layers/health.h

struct Context {
  const Microbatch& batch;
  const ContextParallel& cp;              // size 1: every move vanishes
  DType dtype;                            // of activations
  std::span<State> states;                // by call site; empty when training
  bool training = false;                  // a pass whose gradient is wanted: neither evaluation nor decoding
  std::span<const SegmentHooks> units{};  // what surrounds the units of the model (ParameterGatherer); empty: nothing does
  int site = 0;                           // the call site that runs now: a shared core has one a call
  Pass* pass = nullptr;                   // the recomputed segment that runs now, if any
  Health* health = nullptr;               // where state-space layers say how they are, at the steps where someone asks

  const Layout& layout() const { return batch.layout; }
  bool decoding() const { return !states.empty(); }
  // Whether what is counted over a step (Tally) counts this pass: a replay was counted already.
  bool counting() const { return training && !(pass && pass->replay()); }
  State& state() const { return states[site]; }
  Context at(int call_site) const;
  SegmentHooks hooks(int unit) const { return units.empty() ? SegmentHooks() : units[static_cast<size_t>(unit)]; }
  // What comes from other ranks: kept for the replay of a recomputed segment, which therefore needs no traffic.
  Tensors receive(const std::function<Tensors()>& from) const { return pass ? pass->once(from) : from(); }
};

inline Vars flatten(const Carry& carry, const std::vector<Slot>& slots) {
  Vars vars = {carry.x};
  for (const Slot& slot : slots) vars.insert(vars.end(), carry.shared.at(slot).begin(), carry.shared.at(slot).end());
  return vars;
}

inline Vars::const_iterator unflatten(const Vars& vars, const std::vector<Slot>& slots, Carry& carry) {
  carry.x = vars.front();
  auto next = vars.begin() + 1;
  for (const Slot& slot : slots) {
    carry.shared[slot] = Vars(next, next + width_of(slot));
    next += width_of(slot);
  }
  return next;
}

inline Context Context::at(int call_site) const {
  Context moved = *this;
  moved.site = call_site;
  return moved;
}

}  // namespace ropewalk
