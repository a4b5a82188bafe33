#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/dataset_index.h"
#include "data/output_file.h"
#include "data/tokenizer.h"

namespace ropewalk {

// Writes PREFIX.bin and PREFIX.idx (dataset_index.h), a document at a time. Neither is there before finish(); what stood there before is
// replaced. Throws DataError where the system refuses.
class IndexedWriter {
 public:
  IndexedWriter(const std::string& prefix, TokenType type);

  // Tokens that the type holds.
  void append(std::span<const Token> document);
  void finish();

  int64_t documents() const { return std::ssize(first_sequences_) - 1; }
  int64_t tokens() const { return tokens_; }

 private:
  void write_index();

  std::string prefix_;
  TokenType type_;
  OutputFile tokens_file_, index_file_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> first_sequences_ = {0};
  int64_t tokens_ = 0;
};

}  // namespace ropewalk
