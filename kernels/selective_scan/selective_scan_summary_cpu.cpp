#include "kernels/selective_scan/selective_scan_tiles.h"

namespace ropewalk {
namespace {

using namespace s6;

// One task of SelectiveScanSummary.
template <class T>
class Summary {
 public:
  using W = Wide<T>;

  Summary(const Operands<T>& in, const SelectiveScanSummary& args, const Group& group)
      : in_(in),
        group_(group),
        decay_(args.decay.data<W>()),
        left_(args.left.data<W>()),
        b_(kTokens * in.tiling.padded),
        states_(group.tiles * in.tiling.tile_size()),
        decay_of_tile_(in.tiling.tile_size()) {}

  void run(int64_t r) {
    states_.zero();
    elapsed_.zero();
    for (int64_t k = 0; k < in_.chunks(r); ++k) chunk(in_.chunk(r, k));
    for (int64_t i = 0; i < group_.tiles; ++i) {
      const Tile tile = in_.tiling.tile(group_, i);
      vectorized<decay_of_tile<W>>(in_.tiling.padded, elapsed(i), in_.rate(tile), decay_of_tile_.data);
      in_.store_state(decay_of_tile_, tile, decay_ + r * in_.state_size());
      in_.store_state(state(i), tile, left_ + r * in_.state_size());
    }
  }

 private:
  W* state(int64_t i) const { return states_ + i * in_.tiling.tile_size(); }
  W* elapsed(int64_t i) const { return elapsed_ + i * kLanes; }

  void chunk(const Chunk& chunk) {
    in_.b.load(chunk, group_.head, in_.tiling, b_);
    in_.load(in_.x, chunk, group_, x_);
    in_.load(in_.dt, chunk, group_, raw_);
    for (int64_t i = 0; i < group_.tiles; ++i) {
      const Tile tile = in_.tiling.tile(group_, i);
      W* x = x_ + i * kTileSize;
      vectorized<open_tile<W>>(chunk.length, in_.bias(tile), in_.skip(tile), x, raw_ + i * kTileSize, step_.data, input_.data, x);
      vectorized<absorb_tile<W>>(chunk.length, in_.tiling.padded, step_.data, input_.data, b_.data, in_.rate(tile), state(i), elapsed(i));
    }
  }

  const Operands<T>& in_;
  const Group group_;
  W *const decay_, *const left_;
  const Scratch<W> b_, states_, decay_of_tile_;
  const Scratch<W> elapsed_{kGroupTiles * kLanes};
  const Scratch<W> x_{kGroupSize}, raw_{kGroupSize};
  const Scratch<W> step_{kTileSize}, input_{kTileSize};
};

// One task of SelectiveScanAdjoint.
template <class T>
class Adjoint {
 public:
  using W = Wide<T>;

  Adjoint(const Operands<T>& in, const SelectiveScanAdjoint& args, const Group& group)
      : in_(in),
        group_(group),
        from_(rows_of<T>(args.dy)),
        d_entering_(args.d_entering.data<W>()),
        c_(kTokens * in.tiling.padded),
        d_states_(group.tiles * in.tiling.tile_size()) {}

  void run(int64_t r) {
    d_states_.zero();
    for (int64_t k = in_.chunks(r); k-- > 0;) chunk(in_.chunk(r, k));
    for (int64_t i = 0; i < group_.tiles; ++i) in_.store_state(d_state(i), in_.tiling.tile(group_, i), d_entering_ + r * in_.state_size());
  }

 private:
  W* d_state(int64_t i) const { return d_states_ + i * in_.tiling.tile_size(); }

  void chunk(const Chunk& chunk) {
    in_.c.load(chunk, group_.head, in_.tiling, c_);
    in_.load(in_.dt, chunk, group_, raw_);
    in_.load(from_, chunk, group_, dy_);
    if (in_.z.data) in_.load(in_.z, chunk, group_, z_);
    for (int64_t i = 0; i < group_.tiles; ++i) {
      const Tile tile = in_.tiling.tile(group_, i);
      W* dy = dy_ + i * kTileSize;
      vectorized<step_of_tile<W>>(chunk.length, in_.bias(tile), raw_ + i * kTileSize, step_.data);
      if (in_.z.data) vectorized<gate_backward<W>>(chunk.length, z_ + i * kTileSize, dy, dy);
      vectorized<return_through_tile<W>>(chunk.length, in_.tiling.padded, step_.data, dy, c_.data, in_.rate(tile), d_state(i));
    }
  }

  const Operands<T>& in_;
  const Group group_;
  const Rows<T> from_;
  W* const d_entering_;
  const Scratch<W> c_, d_states_;
  const Scratch<W> raw_{kGroupSize}, dy_{kGroupSize}, z_{kGroupSize}, step_{kTileSize};
};

}  // namespace

void launch(Cpu, const SelectiveScanSummary& args) {
  dispatch_float(args.in.x.dtype(), [&]<class T>(std::type_identity<T>) { run_tasks<Summary, T>(args); });
}

void launch(Cpu, const SelectiveScanAdjoint& args) {
  dispatch_float(args.in.x.dtype(), [&]<class T>(std::type_identity<T>) { run_tasks<Adjoint, T>(args); });
}

}  // namespace ropewalk
