#include "parallel/comm/mpi/mpi_transport.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

#include "kernels/flat/flat.h"
#include "parallel/comm/mpi/exchange.h"
#include "parallel/comm/mpi/lookout.h"
#include "parallel/comm/mpi/relayed_collectives.h"
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

Pieces bytes_of(const Tensors& pieces) { return {pieces.begin(), pieces.end()}; }

// Dense tensors where they are cut.
Pieces bytes_of(const Tensor& x, const Cuts& cuts) {
  Pieces pieces;
  for (size_t rank = 0; rank + 1 < cuts.size(); ++rank)
    pieces.emplace_back(x.reshape({x.numel()}).narrow(0, cuts[rank], cuts[rank + 1] - cuts[rank]));
  return pieces;
}

int64_t bytes_together(const Pieces& pieces) {
  int64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.bytes();
  return bytes;
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
  void open_relay() override;
  Work all_reduce(const Tensor& in, const Tensor& out, const char* label) override;
  Work all_gather(const Tensor& in, const Tensors& pieces, const char* label) override;
  Work reduce_scatter(const Tensors& pieces, const Tensor& out, const char* label) override;
  Work all_to_all(const Tensor& in, const Cuts& sent, const Tensor& out, const Cuts& received, const char* label) override;
  Work send(const Tensor& in, int to, const char* label) override;
  Work receive(const Tensor& out, int from, const char* label) override;
  std::string broadcast(const std::string& text, int root) override;
  std::shared_ptr<Transport> split(int color, const std::shared_ptr<Account>& account) override;

 private:
  Description next_collective(const char* name, int64_t bytes, DType dtype, const char* label);
  std::shared_ptr<Exchange> exchange(const Description& what);
  std::shared_ptr<Exchange> point_to_point(const char* name, const Tensor& x, const char* label);
  Work start(const std::shared_ptr<Operation>& operation);
  Tensor give_pieces(Exchange& operation, const Pieces& pieces, DType dtype) const;
  Work start_shared(const std::shared_ptr<SharedTensors>& shared, const Description& what, std::function<void()> part);
  Work start_relayed(const Description& what, RelayedOperation::Plan plan, const Tensor& in, const Tensor& out);
  void broadcast_in_place(const Tensor& x, int root);
  std::shared_ptr<SharedTensors> shared_memory_of(const Tensor& x) const;

  std::shared_ptr<Communicator> group_;
  std::shared_ptr<Progress> progress_;
  std::vector<std::weak_ptr<SharedTensors>> shared_;  // that some tensor still lies in
  std::shared_ptr<Relay> relay_;                      // may be null
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

void MpiTransport::open_relay() {
  const Deadline bound = deadline("shared memory");
  if (!relay_) relay_ = Relay::open(*group_);
}

std::shared_ptr<SharedTensors> MpiTransport::shared_memory_of(const Tensor& x) const {
  for (const auto& known : shared_)
    if (auto tensors = known.lock(); tensors && tensors->contain(x, rank())) return tensors;
  return nullptr;
}

// `bytes`: of the whole, of which ranks may hold pieces.
Description MpiTransport::next_collective(const char* name, int64_t bytes, DType dtype, const char* label) {
  return {name, label, ++collectives_, bytes, dtype};
}

std::shared_ptr<Exchange> MpiTransport::exchange(const Description& what) {
  return std::make_shared<Exchange>(group_, static_cast<int>(1 + (what.number - 1) % tags_), what);
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

// Gives every rank its piece of a buffer and takes theirs of this rank's piece: [ranks, piece].
Tensor MpiTransport::give_pieces(Exchange& operation, const Pieces& pieces, DType dtype) const {
  const int64_t bytes = pieces[rank()].bytes();
  const Tensor addends = Tensor::empty({size(), bytes / static_cast<int64_t>(size_of(dtype))}, dtype);
  char* const rows = static_cast<char*>(addends.raw());
  group_->for_each_peer([&](int peer) {
    operation.receive(rows + peer * bytes, bytes, peer);
    operation.send(pieces[peer], peer);
  });
  pieces[rank()].store(0, bytes, rows + rank() * bytes);
  operation.keep(addends);
  return addends;
}

Work MpiTransport::start_shared(const std::shared_ptr<SharedTensors>& shared, const Description& what, std::function<void()> part) {
  return start(std::make_shared<SharedOperation>(group_, shared, what, std::move(part)));
}

Work MpiTransport::start_relayed(const Description& what, RelayedOperation::Plan plan, const Tensor& in, const Tensor& out) {
  const auto operation = std::make_shared<RelayedOperation>(group_, relay_, what, std::move(plan));
  operation->keep(in);
  operation->keep(out);
  return start(operation);
}

// Reduce-scatter, then all-gather: every element is added on one rank only, so all ranks get the same bits.
Work MpiTransport::all_reduce(const Tensor& in, const Tensor& out, const char* label) {
  const Cuts cuts = even_cuts(in.numel(), size());
  const Pieces from = bytes_of(in, cuts), to = bytes_of(out, cuts);
  const Description what = next_collective("all_reduce", in.bytes(), in.dtype(), label);
  const int64_t own = to[rank()].bytes(), moved = in.bytes() - own + (size() - 1) * own;
  if (const auto shared = shared_memory_of(in); shared && in.storage() == out.storage()) {
    group_->count_sent(moved);
    const Tensor mine = in.reshape({in.numel()}).narrow(0, cuts[rank()], cuts[rank() + 1] - cuts[rank()]);
    return start_shared(shared, what, [slices = shared->everywhere(mine, rank())] {
      launch(slices.front().device(), SumInto{.spans = slices, .targets = slices});
    });
  }
  if (relay_) {
    group_->count_sent(moved);
    return start_relayed(what, relayed_all_reduce(from, to, in.dtype(), rank()), in, out);
  }
  const auto operation = exchange(what);
  operation->keep(in);
  operation->keep(out);
  const Tensor addends = give_pieces(*operation, from, in.dtype());
  operation->then([&op = *operation, group = group_, addends, to] {
    const Tensor sum = sum_of(addends);
    op.keep(sum);
    to[group->rank].load(0, sum.bytes(), static_cast<const char*>(sum.raw()));
    group->for_each_peer([&](int peer) {
      op.receive(to[peer], peer);
      op.send(sum.raw(), sum.bytes(), peer);
    });
  });
  return start(operation);
}

Work MpiTransport::reduce_scatter(const Tensors& pieces, const Tensor& out, const char* label) {
  const Tensor &front = pieces.front(), &mine = pieces[rank()];
  const Pieces from = bytes_of(pieces);
  const int64_t bytes = bytes_together(from), sent = bytes - mine.bytes();
  const Description what = next_collective("reduce_scatter", bytes, out.dtype(), label);
  if (const auto shared = shared_memory_of(front); shared && front.storage() == out.storage()) {
    group_->count_sent(sent);
    return start_shared(shared, what, [slices = shared->everywhere(mine, rank()), own = rank()] {
      launch(slices.front().device(), SumInto{.spans = slices, .targets = {slices[own]}});
    });
  }
  if (relay_) {
    group_->count_sent(sent);
    return start_relayed(what, relayed_reduce_scatter(from, Piece(out), out.dtype(), rank()), front, out);
  }
  const auto operation = exchange(what);
  operation->keep(front);
  operation->keep(out);
  const Tensor addends = give_pieces(*operation, from, out.dtype());
  operation->then([addends, to = Piece(out)] {
    const Tensor sum = sum_of(addends);
    to.load(0, sum.bytes(), static_cast<const char*>(sum.raw()));
  });
  return start(operation);
}

Work MpiTransport::all_gather(const Tensor& in, const Tensors& pieces, const char* label) {
  const Tensor& front = pieces.front();
  const Pieces to = bytes_of(pieces);
  const int64_t sent = (size() - 1) * in.bytes();
  const Description what = next_collective("all_gather", bytes_together(to), in.dtype(), label);
  if (const auto shared = shared_memory_of(front); shared && in.storage() == front.storage()) {
    group_->count_sent(sent);
    return start_shared(shared, what, [shared, pieces, own = rank()] {
      for (int from = 0; from < std::ssize(pieces); ++from)
        if (from != own) pieces[from].copy_from(shared->everywhere(pieces[from], own)[from]);
    });
  }
  if (relay_) {
    group_->count_sent(sent);
    return start_relayed(what, relayed_all_gather(Piece(in), to, rank()), in, front);
  }
  const auto operation = exchange(what);
  operation->keep(in);
  operation->keep(front);
  group_->for_each_peer([&](int peer) {
    operation->receive(to[peer], peer);
    operation->send(in.raw(), in.bytes(), peer);
  });
  if (const Piece from(in); !from.is(to[rank()])) to[rank()].load(0, in.bytes(), from.data());
  return start(operation);
}

Work MpiTransport::all_to_all(const Tensor& in, const Cuts& sent, const Tensor& out, const Cuts& received, const char* label) {
  const auto operation = exchange(next_collective("all_to_all", in.bytes(), in.dtype(), label));
  operation->keep(in);
  operation->keep(out);
  const Pieces from = bytes_of(in, sent), to = bytes_of(out, received);
  group_->for_each_peer([&](int peer) {
    operation->receive(to[peer], peer);
    operation->send(from[peer], peer);
  });
  to[rank()].load(0, to[rank()].bytes(), from[rank()].data());
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
  const auto operation = exchange(next_collective("broadcast", x.bytes(), x.dtype(), "broadcast"));
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
