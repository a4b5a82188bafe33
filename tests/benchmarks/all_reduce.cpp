// Usage: mpirun -n 2 all_reduce [MiB [least ratio]]    a sum in place over shared tensors beside Open MPI's own, in one run; medians
// Fails where ours is not `least ratio` times as fast.
#include <mpi.h>

#include <algorithm>
#include <cstdlib>

#include "parallel/comm/mpi/mpi_transport.h"

namespace {

using ropewalk::Tensor;

constexpr int kRounds = 15;

template <class Body>
double seconds(const ropewalk::Group& group, const Body& body) {
  group.barrier("before");
  const double begun = MPI_Wtime();
  body();
  return group.max(MPI_Wtime() - begun, "seconds");
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int compare(const ropewalk::Group& group, int64_t mebibytes, double least) {
  const int64_t n = (mebibytes << 20) / 4;
  const Tensor shared = group.allocate_shared({n}, ropewalk::DType::kFloat32), own = Tensor::zeros({n}, ropewalk::DType::kFloat32);
  shared.fill(0);
  std::vector<double> ours, theirs;
  for (int round = 0; round <= kRounds; ++round) {  // the first one warms up
    const double a = seconds(group, [&] { group.all_reduce_in_place(shared, "bench").wait(); });
    const double b =
        seconds(group, [&] { MPI_Allreduce(MPI_IN_PLACE, own.raw(), static_cast<int>(n), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
    if (round == 0) continue;
    ours.push_back(a);
    theirs.push_back(b);
  }
  const double a = median(ours), b = median(theirs), ratio = b / a;
  if (group.rank() == 0)
    fmt::print("all_reduce of {} MiB, {} ranks: {:.2f} ms, MPI_Allreduce {:.2f} ms: {:.1f} times as fast\n", mebibytes, group.size(),
               a * 1e3, b * 1e3, ratio);
  return ratio < least;
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t mebibytes = argc > 1 ? std::atoi(argv[1]) : 64;
  const double least = argc > 2 ? std::atof(argv[2]) : 0;
  const ropewalk::MpiSession session(&argc, &argv);
  return compare(session.world(60), mebibytes, least);
}
