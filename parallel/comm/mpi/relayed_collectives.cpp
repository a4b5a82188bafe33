#include "parallel/comm/mpi/relayed_collectives.h"

namespace ropewalk {
namespace {

constexpr int64_t kLine = 64;

// A tray is shared out among the ranks where each gets something else: bytes a rank, of whole lines.
int64_t share_of_tray(const Pieces& pieces) { return Relay::kTrayBytes / std::ssize(pieces) / kLine * kLine; }

int64_t chunks_of(const Pieces& pieces, int64_t bytes) {
  int64_t longest = 0;
  for (const Piece& piece : pieces) longest = std::max(longest, piece.bytes());
  return (longest + bytes - 1) / bytes;
}

template <class Body>
void for_each_other(const Pieces& pieces, int own, const Body& body) {
  for (int rank = 0; rank < std::ssize(pieces); ++rank)
    if (rank != own) body(rank, pieces[rank]);
}

// Memory that others keep.
Tensor flat(char* first, int64_t bytes, DType dtype) {
  return Tensor::over(std::shared_ptr<void>(std::shared_ptr<void>(), first), first, {bytes / static_cast<int64_t>(size_of(dtype))}, dtype);
}

// Added in the order of ranks, in the wide type; a chunk's sums stay in the cache.
void sum_into(const Tensor& out, const Tensors& addends) {
  const Tensor sum = Tensor::empty(out.shape(), wide(out.dtype()));
  sum.copy_from(addends.front());
  for (size_t rank = 1; rank < addends.size(); ++rank) sum.add(addends[rank]);
  out.copy_from(sum);
}

// Bytes from `begin` on of this rank's piece, to which the others' addends lie at the same place of each tray.
struct Sum {
  int own;
  DType dtype;
  int64_t share;
  void add(const Piece& mine, int64_t begin, const std::vector<char*>& trays, const Piece& out) const {
    mine.for_each_run(begin, begin + share, [&](char* run, int64_t bytes, int64_t place) {
      Tensors addends;
      for (int rank = 0; rank < std::ssize(trays); ++rank)
        addends.push_back(flat(rank == own ? run : trays[rank] + own * share + place, bytes, dtype));
      out.for_each_run(begin + place, begin + place + bytes,
                       [&](char* sum, int64_t, int64_t) { sum_into(flat(sum, bytes, dtype), addends); });
    });
  }
};

}  // namespace

RelayedOperation::Plan relayed_all_gather(const Piece& in, const Pieces& pieces, int own) {
  constexpr int64_t kBytes = Relay::kTrayBytes;
  return {.chunks = chunks_of(pieces, kBytes),
          .lay =
              [in, mine = pieces[own]](int64_t chunk, char* tray) {
                in.store(chunk * kBytes, (chunk + 1) * kBytes, tray);
                if (!in.is(mine)) mine.load(chunk * kBytes, (chunk + 1) * kBytes, tray);  // which is in the cache now
              },
          .take =
              [pieces, own](int64_t chunk, const std::vector<char*>& trays) {
                for_each_other(pieces, own,
                               [&](int rank, const Piece& piece) { piece.load(chunk * kBytes, (chunk + 1) * kBytes, trays[rank]); });
              }};
}

RelayedOperation::Plan relayed_reduce_scatter(const Pieces& pieces, const Piece& out, DType dtype, int own) {
  const int64_t share = share_of_tray(pieces);
  return {.chunks = chunks_of(pieces, share),
          .lay =
              [pieces, own, share](int64_t chunk, char* tray) {
                for_each_other(pieces, own,
                               [&](int rank, const Piece& piece) { piece.store(chunk * share, (chunk + 1) * share, tray + rank * share); });
              },
          .take = [mine = pieces[own], out, sum = Sum{own, dtype, share}](
                      int64_t chunk, const std::vector<char*>& trays) { sum.add(mine, chunk * sum.share, trays, out); }};
}

// A reduce-scatter and an all-gather, one chunk behind it: the sums of a chunk go out with the addends of the next, in this rank's own
// share of its tray, which carries no addends. So every element is added on one rank only, and all ranks get the same bits.
RelayedOperation::Plan relayed_all_reduce(const Pieces& in, const Pieces& out, DType dtype, int own) {
  const int64_t share = share_of_tray(in), chunks = chunks_of(in, share);
  const RelayedOperation::Plan sums = relayed_reduce_scatter(in, out[own], dtype, own);
  return {.chunks = chunks == 0 ? 0 : chunks + 1,
          .lay =
              [sums, mine = out[own], own, share](int64_t chunk, char* tray) {
                if (chunk < sums.chunks) sums.lay(chunk, tray);
                if (chunk > 0) mine.store((chunk - 1) * share, chunk * share, tray + own * share);
              },
          .take =
              [sums, out, own, share](int64_t chunk, const std::vector<char*>& trays) {
                if (chunk < sums.chunks) sums.take(chunk, trays);
                if (chunk == 0) return;
                for_each_other(out, own, [&](int rank, const Piece& piece) {
                  piece.load((chunk - 1) * share, chunk * share, trays[rank] + rank * share);
                });
              },
          .in_turn = true};
}

}  // namespace ropewalk
