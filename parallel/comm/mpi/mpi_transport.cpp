#include "parallel/comm/mpi/mpi_transport.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "kernels/flat/flat.h"
#include "parallel/comm/mpi/exchange.h"
#include "parallel/comm/mpi/lookout.h"
#include "parallel/comm/mpi/shared_memory.h"

namespace ropewalk {
namespace {

constexpr double kStartTimeout = 600;  // seconds: before the configuration has said one
constexpr double kAbortTimeout = 5;
constexpr int kPointToPoint = 0;  // the tag of sends; collectives have one each, since their rounds may pass each other

void check(int code, const char* call) {
  if (code != MPI_SUCCESS) throw CommError(fmt::format("{} failed with MPI error {}", call, code));
}

bool mpi_runs() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

// Without a launcher a process is a job of one rank, and needs no MPI.
bool launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

int highest_tag() {
  int* value = nullptr;
  int found = 0;
  check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &value, &found), "MPI_Comm_get_attr");
  return *value;
}

// [ranks, n] of one dtype -> the sum over ranks [n], added in their order, in the wide type. The addends are used up.
Tensor sum_of(const Tensor& addends) {
  const Tensor sum = addends.select(0, 0).to(wide(addends.dtype()));
  for (int64_t rank = 1; rank < addends.dim(0); ++rank) sum.add(addends.select(0, rank));
  return sum.to(addends.dtype());
}

class MpiTransport : public Transport {
 public:
  MpiTransport(std::shared_ptr<Communicator> group, std::shared_ptr<Progress> progress)
      : group_(std::move(group)), progress_(std::move(progress)), tags_(highest_tag()) {}

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }
  int64_t bytes_sent() const override { return group_->bytes_sent; }
  void name_ranks(const std::vector<std::string>& names) override;
  Deadline deadline(const char* label) override { return progress_->lookout().deadline(label); }

  Tensor allocate_shared(const Shape& shape, DType dtype) override;
  Work all_reduce(const Tensor& in, const Tensor& out, const char* label) override;
  Work all_gather(const Tensor& in, const Tensor& out, const Cuts& cuts, const char* label) override;
  Work reduce_scatter(const Tensor& in, const Tensor& out, const Cuts& cuts, const char* label) override;
  Work all_to_all(const Tensor& in, const Cuts& sent, const Tensor& out, const Cuts& received, const char* label) override;
  Work send(const Tensor& in, int to, const char* label) override;
  Work receive(const Tensor& out, int from, const char* label) override;
  std::string broadcast(const std::string& text, int root) override;
  std::shared_ptr<Transport> split(int color, const std::shared_ptr<Account>& account) override;

 private:
  // A buffer and where it is cut among the ranks.
  struct Pieces {
    char* data;
    int64_t element_bytes;
    Cuts cuts;
    int64_t length(int rank) const { return cuts[rank + 1] - cuts[rank]; }
    char* piece(int rank) const { return data + cuts[rank] * element_bytes; }
    int64_t bytes(int rank) const { return length(rank) * element_bytes; }
  };
  static Pieces pieces(const Tensor& x, const Cuts& cuts) {
    return {static_cast<char*>(x.raw()), static_cast<int64_t>(size_of(x.dtype())), cuts};
  }

  std::shared_ptr<Exchange> collective(const char* name, const Tensor& x, const char* label);
  std::shared_ptr<Exchange> point_to_point(const char* name, const Tensor& x, const char* label);
  Work start(const std::shared_ptr<Operation>& operation);
  Tensor exchange(Exchange& operation, const Tensor& in, const Cuts& cuts) const;
  Work start_shared(const char* name, const std::shared_ptr<SharedTensors>& shared, const Tensor& x, int64_t sent, const char* label,
                    SharedOperation::Part part);
  void broadcast_in_place(const Tensor& x, int root);
  std::shared_ptr<SharedTensors> shared_memory_of(const Tensor& x) const;

  std::shared_ptr<Communicator> group_;
  std::shared_ptr<Progress> progress_;
  std::vector<std::weak_ptr<SharedTensors>> shared_;  // that some tensor still lies in
  int64_t tags_, collectives_ = 0, transfers_ = 0;
};

void MpiTransport::name_ranks(const std::vector<std::string>& names) {
  for (int rank = 0; rank < size(); ++rank) group_->names->set(group_->world_ranks[rank], names[rank]);
}

Tensor MpiTransport::allocate_shared(const Shape& shape, DType dtype) {
  const Deadline bound = deadline("shared memory");
  const auto tensors = SharedTensors::allocate(*group_, shape, dtype);
  if (!tensors) return Tensor::empty(shape, dtype);
  std::erase_if(shared_, [](const auto& known) { return known.expired(); });
  shared_.push_back(tensors);
  return Tensor::over(tensors, tensors->of(rank()).raw(), shape, dtype);
}

std::shared_ptr<SharedTensors> MpiTransport::shared_memory_of(const Tensor& x) const {
  for (const auto& known : shared_)
    if (auto tensors = known.lock(); tensors && tensors->offset_of(x, rank()) >= 0) return tensors;
  return nullptr;
}

std::shared_ptr<Exchange> MpiTransport::collective(const char* name, const Tensor& x, const char* label) {
  const int tag = static_cast<int>(1 + collectives_++ % tags_);
  return std::make_shared<Exchange>(group_, tag, Description{name, label, collectives_, x.bytes(), x.dtype()});
}

std::shared_ptr<Exchange> MpiTransport::point_to_point(const char* name, const Tensor& x, const char* label) {
  auto operation = std::make_shared<Exchange>(group_, kPointToPoint, Description{name, label, ++transfers_, x.bytes(), x.dtype()});
  operation->keep(x);
  return operation;
}

Work MpiTransport::start(const std::shared_ptr<Operation>& operation) {
  progress_->start(operation);
  return Work([operation, progress = progress_] { progress->wait(*operation); });
}

// Gives every rank its piece of `in` and takes theirs of this rank's piece: [ranks, piece].
Tensor MpiTransport::exchange(Exchange& operation, const Tensor& in, const Cuts& cuts) const {
  const Pieces from = pieces(in, cuts);
  const int64_t bytes = from.bytes(rank());
  const Tensor addends = Tensor::empty({size(), from.length(rank())}, in.dtype());
  char* const rows = static_cast<char*>(addends.raw());
  group_->for_each_peer([&](int peer) {
    operation.receive(rows + peer * bytes, bytes, peer);
    operation.send(from.piece(peer), from.bytes(peer), peer);
  });
  std::memcpy(rows + rank() * bytes, from.piece(rank()), static_cast<size_t>(bytes));
  operation.keep(in);
  operation.keep(addends);
  return addends;
}

// `sent`: the bytes that the same operation would send by messages.
Work MpiTransport::start_shared(const char* name, const std::shared_ptr<SharedTensors>& shared, const Tensor& x, int64_t sent,
                                const char* label, SharedOperation::Part part) {
  group_->count_sent(sent);
  const Description what{name, label, ++collectives_, x.bytes(), x.dtype()};
  return start(std::make_shared<SharedOperation>(group_, shared, x, what, std::move(part)));
}

namespace {

Tensors narrowed(const Tensors& parts, int64_t begin, int64_t end) {
  Tensors slices;
  for (const Tensor& part : parts) slices.push_back(part.narrow(0, begin, end - begin));
  return slices;
}

}  // namespace

// Reduce-scatter, then all-gather: every element is added on one rank only, so all ranks get the same bits.
Work MpiTransport::all_reduce(const Tensor& in, const Tensor& out, const char* label) {
  const Cuts cuts = even_cuts(in.numel(), size());
  const int64_t begin = cuts[rank()], end = cuts[rank() + 1];
  if (const auto shared = shared_memory_of(in); shared && in.storage() == out.storage()) {
    const int64_t moved = in.numel() - (end - begin) + (size() - 1) * (end - begin);
    return start_shared("all_reduce", shared, in, moved * size_of(in.dtype()), label, [begin, end](const Tensors& parts) {
      const Tensors slices = narrowed(parts, begin, end);
      launch(slices.front().device(), SumInto{.spans = slices, .targets = slices});
    });
  }
  const auto operation = collective("all_reduce", in, label);
  operation->keep(out);
  const Tensor addends = exchange(*operation, in, cuts);
  operation->then([&op = *operation, group = group_, addends, to = pieces(out, cuts)] {
    const Tensor sum = sum_of(addends);
    op.keep(sum);
    std::memcpy(to.piece(group->rank), sum.raw(), static_cast<size_t>(sum.bytes()));
    group->for_each_peer([&](int peer) {
      op.receive(to.piece(peer), to.bytes(peer), peer);
      op.send(sum.raw(), sum.bytes(), peer);
    });
  });
  return start(operation);
}

Work MpiTransport::reduce_scatter(const Tensor& in, const Tensor& out, const Cuts& cuts, const char* label) {
  const int64_t begin = cuts[rank()], end = cuts[rank() + 1];
  if (const auto shared = shared_memory_of(in); shared && in.storage() == out.storage()) {
    const int64_t moved = in.numel() - (end - begin);
    return start_shared("reduce_scatter", shared, in, moved * size_of(in.dtype()), label, [begin, end, own = rank()](const Tensors& parts) {
      const Tensors slices = narrowed(parts, begin, end);
      launch(slices.front().device(), SumInto{.spans = slices, .targets = {slices[own]}});
    });
  }
  const auto operation = collective("reduce_scatter", in, label);
  operation->keep(out);
  const Tensor addends = exchange(*operation, in, cuts);
  operation->then([addends, to = out.raw()] {
    const Tensor sum = sum_of(addends);
    std::memcpy(to, sum.raw(), static_cast<size_t>(sum.bytes()));
  });
  return start(operation);
}

Work MpiTransport::all_gather(const Tensor& in, const Tensor& out, const Cuts& cuts, const char* label) {
  if (const auto shared = shared_memory_of(out); shared && in.storage() == out.storage())
    return start_shared("all_gather", shared, out, (size() - 1) * in.bytes(), label, [cuts, own = rank()](const Tensors& parts) {
      for (int from = 0; from < std::ssize(parts); ++from) {
        const Tensors pieces = narrowed(parts, cuts[from], cuts[from + 1]);
        if (from != own) pieces[own].copy_from(pieces[from]);
      }
    });
  const auto operation = collective("all_gather", out, label);
  operation->keep(in);
  operation->keep(out);
  const Pieces to = pieces(out, cuts);
  group_->for_each_peer([&](int peer) {
    operation->receive(to.piece(peer), to.bytes(peer), peer);
    operation->send(in.raw(), in.bytes(), peer);
  });
  if (to.piece(rank()) != in.raw()) std::memcpy(to.piece(rank()), in.raw(), static_cast<size_t>(in.bytes()));
  return start(operation);
}

Work MpiTransport::all_to_all(const Tensor& in, const Cuts& sent, const Tensor& out, const Cuts& received, const char* label) {
  const auto operation = collective("all_to_all", in, label);
  operation->keep(in);
  operation->keep(out);
  const Pieces from = pieces(in, sent), to = pieces(out, received);
  group_->for_each_peer([&](int peer) {
    operation->receive(to.piece(peer), to.bytes(peer), peer);
    operation->send(from.piece(peer), from.bytes(peer), peer);
  });
  std::memcpy(to.piece(rank()), from.piece(rank()), static_cast<size_t>(from.bytes(rank())));
  return start(operation);
}

Work MpiTransport::send(const Tensor& in, int to, const char* label) {
  const auto operation = point_to_point("send", in, label);
  operation->send(in.raw(), in.bytes(), to);
  return start(operation);
}

Work MpiTransport::receive(const Tensor& out, int from, const char* label) {
  const auto operation = point_to_point("receive", out, label);
  operation->receive(out.raw(), out.bytes(), from);
  return start(operation);
}

void MpiTransport::broadcast_in_place(const Tensor& x, int root) {
  const auto operation = collective("broadcast", x, "broadcast");
  if (rank() == root)
    group_->for_each_peer([&](int peer) { operation->send(x.raw(), x.bytes(), peer); });
  else
    operation->receive(x.raw(), x.bytes(), root);
  start(operation).wait();
}

std::string MpiTransport::broadcast(const std::string& text, int root) {
  const Tensor length = Tensor::from<int64_t>({1}, {static_cast<int64_t>(text.size())});
  broadcast_in_place(length, root);
  const Tensor bytes = Tensor::empty({*length.data<int64_t>()}, DType::kUInt8);
  char* const begin = reinterpret_cast<char*>(bytes.data<uint8_t>());
  if (rank() == root) text.copy(begin, text.size());
  broadcast_in_place(bytes, root);
  return std::string(begin, static_cast<size_t>(bytes.numel()));
}

std::shared_ptr<Transport> MpiTransport::split(int color, const std::shared_ptr<Account>& account) {
  const Deadline bound = deadline("split");
  MPI_Comm part;
  check(MPI_Comm_split(group_->comm, color, group_->rank, &part), "MPI_Comm_split");
  return std::make_shared<MpiTransport>(std::make_shared<Communicator>(part, group_->names, account ? account : group_->account),
                                        progress_);
}

}  // namespace

MpiSession::MpiSession(int* argc, char*** argv, Say say)
    : say_(std::move(say)), timeout_(kStartTimeout), exceptions_(std::uncaught_exceptions()) {
  int initialized = 0, threads = 0;
  MPI_Initialized(&initialized);
  if (initialized || !launched()) return;
  const Deadline bound = deadline("MPI_Init");
  check(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &threads), "MPI_Init_thread");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  finalizes_ = true;
}

MpiSession::~MpiSession() {
  if (!finalizes_ || std::uncaught_exceptions() != exceptions_) return;
  const Deadline bound = deadline("MPI_Finalize");
  MPI_Finalize();
}

Deadline MpiSession::deadline(const char* call) const {
  if (!say_) return {};
  return {timeout_, [this, call] {
            say_(fmt::format("{} has not returned for {:g} s; a rank is gone or stalled", call, timeout_));
            std::_Exit(CommError::kExitCode);
          }};
}

Group MpiSession::world(double timeout) const {
  if (!mpi_runs()) return {};
  timeout_ = timeout;
  const Deadline bound = deadline("a call of MPI that sets up the job");
  MPI_Comm all;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &all), "MPI_Comm_dup");
  check(MPI_Comm_set_errhandler(all, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  const auto group = std::make_shared<Communicator>(all, std::make_shared<RankNames>());
  const auto progress = std::make_shared<Progress>(std::make_unique<Lookout>(*group, timeout, say_));
  return Group(std::make_shared<MpiTransport>(group, progress));
}

void MpiSession::abort(int exit_code) {
  const Deadline bound(kAbortTimeout, [exit_code] { std::_Exit(exit_code); });
  if (mpi_runs()) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace ropewalk
