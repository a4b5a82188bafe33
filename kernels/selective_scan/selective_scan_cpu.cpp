#include "kernels/selective_scan/selective_scan_tiles.h"

namespace ropewalk {
namespace {

using namespace s6;

// One task of forward.
template <class T>
class Forward {
 public:
  using W = Wide<T>;

  Forward(const Operands<T>& in, const SelectiveScanForward& args, const Group& group)
      : in_(in),
        group_(group),
        y_(rows_of<T>(args.y)),
        leaving_(args.leaving.data<W>()),
        borders_(args.borders ? args.borders.data<W>() : nullptr),
        my_(in.tiling),
        states_(group.tiles * in.tiling.tile_size()) {}

  void run(int64_t r) {
    for (int64_t i = 0; i < group_.tiles; ++i) in_.load_state(in_.entering(in_.runs[r]), tiling_.tile(group_, i), state(i));
    for (int64_t k = 0; k < in_.chunks(r); ++k) chunk(in_.chunk(r, k));
    for (int64_t i = 0; i < group_.tiles; ++i) in_.store_state(state(i), tiling_.tile(group_, i), leaving_ + r * in_.state_size());
  }

 private:
  W* state(int64_t i) const { return states_ + i * tiling_.tile_size(); }

  void chunk(const Chunk& chunk) {
    my_.load(in_, chunk, group_);
    for (int64_t i = 0; i < group_.tiles; ++i) {
      const Tile tile = tiling_.tile(group_, i);
      if (borders_) std::copy_n(state(i), tiling_.tile_size(), borders_ + in_.border(chunk, tile));
      W* y = my_.x + i * kTileSize;
      vectorized<open_tile<W>>(chunk.length, in_.bias(tile), in_.skip(tile), y, my_.raw + i * kTileSize, my_.step.data, my_.input.data, y);
      vectorized<scan_tile<W>>(chunk.length, tiling_.padded, my_.step.data, my_.input.data, my_.b.data, my_.c.data, in_.rate(tile),
                               state(i), y);
      if (in_.z.data) vectorized<gate_tile<W>>(chunk.length, my_.z + i * kTileSize, y);
    }
    in_.store(my_.x, chunk, group_, y_);
  }

  const Operands<T>& in_;
  const Tiling& tiling_ = in_.tiling;
  const Group group_;
  const Rows<T> y_;
  W *const leaving_, *const borders_;
  const GroupScratch<T> my_;
  const Scratch<W> states_;
};

// What the tasks of backward share: where gradients go, and sums that wait for each other.
template <class T>
struct BackwardLaunch {
  using W = Wide<T>;

  explicit BackwardLaunch(const SelectiveScanBackward& args)
      : in(args.in),
        gradients(args.gradients),
        dx(rows_of<T>(args.gradients.x)),
        d_raw(rows_of<T>(args.gradients.dt)),
        dz(args.gradients.z ? rows_of<T>(args.gradients.z) : Rows<T>{}),
        dy(rows_of<T>(args.dy)),
        borders(args.borders.data<W>()),
        d_leaving(args.d_leaving ? args.d_leaving.data<W>() : nullptr),
        d_h0(args.gradients.h0 ? args.gradients.h0.data<W>() : nullptr),
        token_sums(in.tiling.groups() * in.rows * in.tokens * 2 * in.tiling.states),
        parameter_sums(in.shares() * in.tiling.tiles() * parameters_a_tile()) {}

  int64_t parameters_a_tile() const { return in.tiling.tile_size() + 2 * kLanes; }
  // Of a tile and share: by rate [padded, kLanes], bias [kLanes] and skip [kLanes].
  W* sums(int64_t share, const Tile& tile) const { return parameter_sums + (share * in.tiling.tiles() + tile.index) * parameters_a_tile(); }
  // Of a group: by b [N] and c [N] of a token.
  W* sums_of_group(int64_t group, int64_t token) const { return token_sums + (group * in.rows * in.tokens + token) * 2 * in.tiling.states; }

  void add_token_sums() const {
    T *db = gradients.b.data<T>(), *dc = gradients.c.data<T>();
    parallel_ranges(in.rows * in.tokens, kTokens, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * in.tiling.heads; i < end * in.tiling.heads; ++i)
        add_token_sums(i / in.tiling.heads, i % in.tiling.heads, db + i * in.tiling.states, dc + i * in.tiling.states);
    });
  }

  void add_parameter_sums() const {
    in.for_each_tile([&](const Tile& tile) {
      const W* rate = in.rate(tile);
      const int64_t bias = in.tiling.tile_size();
      for (int64_t s = 0; s < tile.width; ++s) {
        if (gradients.a_log)
          for (int64_t n = 0; n < in.tiling.states; ++n)
            gradients.a_log.data<W>()[(tile.channel + s) * in.tiling.states + n] +=
                static_cast<W>(kLn2) * rate[n * kLanes + s] * over_shares(tile, n * kLanes + s);
        if (gradients.dt_bias) gradients.dt_bias.data<W>()[tile.channel + s] += over_shares(tile, bias + s);
        if (gradients.d_skip) gradients.d_skip.data<W>()[tile.channel + s] += over_shares(tile, bias + kLanes + s);
      }
    });
  }

  Operands<T> in;
  const SelectiveScanGradients& gradients;
  Rows<T> dx, d_raw, dz, dy;
  const W *borders, *d_leaving;
  W* d_h0;
  Scratch<W> token_sums, parameter_sums;

 private:
  void add_token_sums(int64_t token, int64_t head, T* db, T* dc) const {
    const int64_t first = head * in.tiling.groups_a_head(), N = in.tiling.states;
    for (int64_t n = 0; n < 2 * N; ++n) {
      W sum = 0;
      for (int64_t g = 0; g < in.tiling.groups_a_head(); ++g) sum += sums_of_group(first + g, token)[n];
      (n < N ? db[n] : dc[n - N]) = static_cast<T>(sum);
    }
  }

  W over_shares(const Tile& tile, int64_t at) const {
    W sum = 0;
    for (int64_t share = 0; share < in.shares(); ++share) sum += sums(share, tile)[at];
    return sum;
  }
};

// One task of backward.
template <class T>
class Backward {
 public:
  using W = Wide<T>;

  Backward(const BackwardLaunch<T>& launch, int64_t share, const Group& group)
      : all_(launch), share_(share), group_(group), my_(launch.in.tiling) {
    for (int64_t i = 0; i < group.tiles; ++i) std::fill_n(launch.sums(share, tile(i)), launch.parameters_a_tile(), W(0));
  }

  void run(int64_t r) {
    const Run& run = in_.runs[r];
    for (int64_t i = 0; i < group_.tiles; ++i)
      in_.load_state(all_.d_leaving ? all_.d_leaving + r * in_.state_size() : nullptr, tile(i), d_state(i));
    for (int64_t k = in_.chunks(r); k-- > 0;) chunk(in_.chunk(r, k));
    if (!all_.d_h0 || run.opens()) return;
    for (int64_t i = 0; i < group_.tiles; ++i) in_.store_state(d_state(i), tile(i), all_.d_h0 + run.enters * in_.state_size());
  }

 private:
  Tile tile(int64_t i) const { return tiling_.tile(group_, i); }
  W* d_state(int64_t i) const { return d_states_ + i * tiling_.tile_size(); }

  void chunk(const Chunk& chunk) {
    my_.load(in_, chunk, group_);
    in_.load(all_.dy, chunk, group_, dy_);
    db_.zero();
    dc_.zero();
    for (int64_t i = 0; i < group_.tiles; ++i) tile_of(chunk, i);
    in_.store(my_.x, chunk, group_, all_.dx);
    in_.store(my_.raw, chunk, group_, all_.d_raw);
    if (in_.z.data) in_.store(my_.z, chunk, group_, all_.dz);
    W* sums = all_.sums_of_group(group_.index, in_.row_of(chunk));
    const int64_t N = tiling_.states;
    vectorized<sum_lanes<W>>(chunk.length, N, tiling_.padded, db_.data, sums, 2 * N);
    vectorized<sum_lanes<W>>(chunk.length, N, tiling_.padded, dc_.data, sums + N, 2 * N);
  }

  void tile_of(const Chunk& chunk, int64_t i) {
    const Tile tile = this->tile(i);
    W *x = my_.x + i * kTileSize, *raw = my_.raw + i * kTileSize, *z = my_.z + i * kTileSize, *sums = all_.sums(share_, tile);
    W *dy = dy_ + i * kTileSize, *d_y = in_.z.data ? d_y_.data : dy;  // of what leaves the gate, and of what enters it
    vectorized<open_tile<W>>(chunk.length, in_.bias(tile), in_.skip(tile), x, raw, my_.step.data, my_.input.data, y_.data);
    if (in_.z.data) vectorized<gate_backward<W>>(chunk.length, z, dy, d_y);
    d_step_.zero();
    d_input_.zero();
    vectorized<scan_tile_backward<W>>(TileBackward<W>{.tokens = chunk.length,
                                                      .states = tiling_.padded,
                                                      .step = my_.step,
                                                      .input = my_.input,
                                                      .dy = d_y,
                                                      .b = my_.b,
                                                      .c = my_.c,
                                                      .rate = in_.rate(tile),
                                                      .entering = all_.borders + in_.border(chunk, tile),
                                                      .decay = decay_,
                                                      .before = before_,
                                                      .y = y_,
                                                      .d_step = d_step_,
                                                      .d_input = d_input_,
                                                      .d_rate = sums,
                                                      .d_state = d_state(i),
                                                      .db = db_,
                                                      .dc = dc_});
    if (in_.z.data) vectorized<gate_gradient<W>>(chunk.length, dy, y_.data, z);
    W* d_bias = sums + tiling_.tile_size();
    vectorized<open_tile_backward<W>>(chunk.length, in_.skip(tile), my_.step.data, d_y, d_step_.data, d_input_.data, raw, x, d_bias,
                                      d_bias + kLanes);
  }

  const BackwardLaunch<T>& all_;
  const Operands<T>& in_ = all_.in;
  const Tiling& tiling_ = in_.tiling;
  const int64_t share_;
  const Group group_;
  const GroupScratch<T> my_;
  const Scratch<W> d_states_{group_.tiles * tiling_.tile_size()}, db_{kTokens * tiling_.tile_size()}, dc_{kTokens * tiling_.tile_size()};
  const Scratch<W> dy_{kGroupSize}, d_y_{kTileSize}, y_{kTileSize}, d_step_{kTileSize}, d_input_{kTileSize};
  const Scratch<W> decay_{kPair * kTileSize}, before_{kPair * (kTileSize + kLanes)};
};

template <class T>
void backward(const SelectiveScanBackward& args) {
  const BackwardLaunch<T> all(args);
  all.in.for_each_task([&](int64_t share, const Group& group) {
    Backward<T> task(all, share, group);
    for (int64_t r = all.in.first_run(share); r < all.in.first_run(share + 1); ++r) task.run(r);
  });
  all.add_token_sums();
  all.add_parameter_sums();
}

}  // namespace

Shape selective_scan_borders(const SelectiveScanOperands& in) {
  const Tiling tiling(in);
  return {tiling.first_chunk.back(), tiling.tiles(), tiling.padded, kLanes};
}

void launch(Cpu, const SelectiveScanForward& args) {
  dispatch_float(args.y.dtype(), [&]<class T>(std::type_identity<T>) { run_tasks<Forward, T>(args); });
}

void launch(Cpu, const SelectiveScanBackward& args) {
  dispatch_float(args.dy.dtype(), [&]<class T>(std::type_identity<T>) { backward<T>(args); });
}

}  // namespace ropewalk
