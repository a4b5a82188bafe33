#pragma once

#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "kernels/tensor/parallel_for.h"

namespace ropewalk {

// Each text's tokens, the texts shared out over the threads.
inline std::vector<std::vector<Token>> encode_all(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  std::vector<std::vector<Token>> tokens(texts.size());
  std::mutex mutex;
  std::exception_ptr failure;  // must not leave the parallel region by itself
  parallel_for(std::ssize(texts), [&](int64_t i) {
    try {
      tokens[i] = tokenizer.encode(texts[i]);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return tokens;
}

}  // namespace ropewalk
