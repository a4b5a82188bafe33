// One rank's piece of a buffer, as bytes.
#pragma once

#include <algorithm>

#include "kernels/tensor/tensor.h"

namespace ropewalk {

// Where the elements of a view lie, in their order: blocks of neighbouring bytes, all of one length and equally far apart. So are those of
// a range along one dim of a dense tensor. Bytes move without a look at the storage, which may be pending by then.
class Piece {
 public:
  explicit Piece(const Tensor& view);

  int64_t bytes() const { return blocks_ * length_; }
  bool dense() const { return blocks_ == 1; }
  char* data() const { return first_; }  // of the first element
  bool is(const Piece& other) const { return first_ == other.first_; }
  // Of the bytes [begin, end), in their order and as far as they exist, those that lie side by side: body(first, bytes, their place).
  template <class Body>
  void for_each_run(int64_t begin, int64_t end, const Body& body) const {
    end = std::min(end, bytes());
    for (int64_t at = begin; at < end;) {
      const int64_t block = at / length_, inside = at % length_, run = std::min(length_ - inside, end - at);
      body(first_ + block * stride_ + inside, run, at - begin);
      at += run;
    }
  }
  // The bytes [begin, end), as far as they exist, to and from dense memory.
  void store(int64_t begin, int64_t end, char* to) const;
  void load(int64_t begin, int64_t end, const char* from) const;

 private:
  char* first_;
  int64_t blocks_ = 1, length_, stride_ = 0;
};

}  // namespace ropewalk
