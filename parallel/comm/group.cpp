#include "parallel/comm/group.h"

#include <algorithm>
#include <optional>

namespace ropewalk {
namespace {

int checked_dim(const Tensor& x, int dim, const char* label) {
  const int index = x.shape().index(dim);
  expect(index >= 0 && index < x.rank(), "{}: {} has no dim {}", label, x.shape(), dim);
  return index;
}

Tensor pending(const Tensor& x, Work work) {
  x.storage()->pend([work = std::move(work)]() mutable { work.wait(); });
  return x;
}

// A dense tensor where it is cut, in elements.
Tensors pieces_at(const Tensor& x, const Cuts& cuts) {
  const Tensor flat = x.reshape({x.numel()});
  Tensors pieces;
  for (size_t rank = 0; rank + 1 < cuts.size(); ++rank) pieces.push_back(flat.narrow(0, cuts[rank], cuts[rank + 1] - cuts[rank]));
  return pieces;
}

Tensors pieces_along(const Tensor& x, int dim, int ranks) {
  const int64_t extent = x.dim(dim) / ranks;
  Tensors pieces;
  for (int rank = 0; rank < ranks; ++rank) pieces.push_back(x.narrow(dim, rank * extent, extent));
  return pieces;
}

// Where so many rows of x for each rank begin, in elements.
Cuts cuts_of_rows(const std::vector<int64_t>& rows, int64_t width) {
  Cuts cuts = {0};
  for (const int64_t count : rows) cuts.push_back(cuts.back() + count * width);
  return cuts;
}

}  // namespace

Cuts even_cuts(int64_t elements, int ranks) {
  Cuts cuts;
  for (int rank = 0; rank <= ranks; ++rank) cuts.push_back(elements * rank / ranks);
  return cuts;
}

Tensor Group::allocate_shared(const Shape& shape, DType dtype, Device device) const {
  return size() == 1 ? Tensor::empty(shape, dtype, device) : transport_->allocate_shared(shape, dtype);
}

void Group::open_relay() const {
  if (size() > 1) transport_->open_relay();
}

Tensor Group::all_reduce(const Tensor& x, const char* label) const {
  if (size() == 1) return x;
  const Tensor sum = empty_like(x);
  return pending(sum, transport_->all_reduce(x.packed(), sum, label));
}

Work Group::all_reduce_in_place(const Tensor& x, const char* label) const {
  expect(x.contiguous(), "{}: a sum in place takes a dense tensor, given a view {}", label, x.shape());
  return size() == 1 ? Work() : transport_->all_reduce(x, x, label);
}

Work Group::reduce_scatter_in_place(const Tensor& x, const Cuts& cuts, const char* label) const {
  expect(x.contiguous(), "{}: a sum in place takes a dense tensor, given a view {}", label, x.shape());
  if (size() == 1) return {};
  const Tensors pieces = pieces_at(x, cuts);
  return transport_->reduce_scatter(pieces, pieces[rank()], label);
}

Work Group::all_gather_in_place(const Tensor& x, const Cuts& cuts, const char* label) const {
  expect(x.contiguous(), "{}: to gather in place takes a dense tensor, given a view {}", label, x.shape());
  if (size() == 1) return {};
  const Tensors pieces = pieces_at(x, cuts);
  return transport_->all_gather(pieces[rank()], pieces, label);
}

Tensor Group::all_to_all(const Tensor& x, const std::vector<int64_t>& sent, const std::vector<int64_t>& received, const char* label) const {
  if (size() == 1) return x;
  const int64_t width = x.shape().with(0, 1).numel();
  const Cuts to = cuts_of_rows(sent, width), from = cuts_of_rows(received, width);
  expect(to.back() == x.numel(), "{}: expected {} elements in all, given {}", label, to.back(), x.shape());
  const Tensor rows = Tensor::empty(x.shape().with(0, width == 0 ? 0 : from.back() / width), x.dtype(), x.device());
  return pending(rows, transport_->all_to_all(x.packed(), to, rows, from, label));
}

Tensor Group::all_gather(const Tensor& x, int dim, const char* label) const {
  if (size() == 1) return x;
  dim = checked_dim(x, dim, label);
  const Tensor whole = Tensor::empty(x.shape().with(dim, size() * x.dim(dim)), x.dtype(), x.device());
  return pending(whole, transport_->all_gather(x.packed(), pieces_along(whole, dim, size()), label));
}

Tensor Group::reduce_scatter(const Tensor& x, int dim, const char* label) const {
  if (size() == 1) return x;
  dim = checked_dim(x, dim, label);
  expect(x.dim(dim) % size() == 0, "{}: dim {} of {} is no multiple of the {} ranks", label, dim, x.shape(), size());
  const Tensor slice = Tensor::empty(x.shape().with(dim, x.dim(dim) / size()), x.dtype(), x.device());
  return pending(slice, transport_->reduce_scatter(pieces_along(x.packed(), dim, size()), slice, label));
}

Work Group::send(const Tensor& x, int to, const char* label) const {
  expect(size() > 1, "{}: a group of one has nobody to send to", label);
  return transport_->send(x.packed(), to, label);
}

Tensor Group::receive(const Shape& shape, DType dtype, int from, const char* label) const {
  expect(size() > 1, "{}: a group of one has nobody to receive from", label);
  const Tensor x = Tensor::empty(shape, dtype);
  return pending(x, transport_->receive(x, from, label));
}

std::vector<double> Group::gather(double x, const char* label) const {
  return all_gather(Tensor::from<double>({1}, {x}), 0, label).to_vector<double>();
}

double Group::sum(double x, const char* label) const {
  double total = 0;
  for (const double addend : gather(x, label)) total += addend;
  return total;
}

double Group::max(double x, const char* label) const {
  const std::vector<double> all = gather(x, label);
  return *std::max_element(all.begin(), all.end());
}

bool Group::any(bool x, const char* label) const { return max(x ? 1 : 0, label) > 0; }

std::string Group::broadcast(const std::string& text, int root) const { return size() == 1 ? text : transport_->broadcast(text, root); }

void Group::barrier(const char* label) const { gather(0, label); }

Group Group::split(int color, const std::shared_ptr<Account>& account) const {
  if (size() == 1) return {};
  barrier("split");  // which, unlike what follows, reports who does not come
  return Group(transport_->split(color, account));
}

void Group::name_ranks(const std::vector<std::string>& names) const {
  if (transport_) transport_->name_ranks(names);
}

void agree(const Group& group, const std::function<void()>& body, const char* label) {
  std::optional<Error> own;
  try {
    body();
  } catch (const CommError&) {
    throw;  // there may be nobody left to agree with
  } catch (const Error& error) {
    if (group.size() == 1) throw;
    own = error;
  }
  const std::vector<double> codes = group.gather(own ? own->exit_code() : 0, label);
  const auto failed = std::find_if(codes.begin(), codes.end(), [](double code) { return code != 0; });
  if (failed == codes.end()) return;
  const std::string message = group.broadcast(own ? own->what() : "", static_cast<int>(failed - codes.begin()));
  throw Error(static_cast<int>(*failed), message, Error::Reach::kEveryRank);
}

}  // namespace ropewalk
