// The index of a dataset in Megatron-LM's format (megatron/core/datasets/indexed_dataset.py): PREFIX.bin holds the tokens of all
// sequences end to end, PREFIX.idx says where they are. Little-endian, without padding:
//   offset 0   9 bytes  "MMIDIDX\0\0"
//          9   uint64   version, 1
//         17   uint8    dtype of a token: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16 (6 and 7 are floating point: no tokens)
//         18   uint64   S, the number of sequences
//         26   uint64   D + 1, where D is the number of documents
//         34   int32    [S] tokens of each sequence
//              int64    [S] byte of PREFIX.bin where each sequence begins: the sum of those before it
//              int64    [D + 1] first sequence of each document, ascending from 0, and S
// (A multimodal index goes on with int8 [S]; such a file is refused.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace ropewalk {

constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
constexpr uint64_t kIndexVersion = 1;

enum class TokenType : uint8_t { kUInt8 = 1, kInt8 = 2, kInt16 = 3, kInt32 = 4, kInt64 = 5, kUInt16 = 8 };
int64_t size_of(TokenType type);

// Calls body(std::type_identity<T>()) for the C++ type of a token.
template <class Body>
void dispatch_token(TokenType type, const Body& body) {
  switch (type) {
    case TokenType::kUInt8: return body(std::type_identity<uint8_t>());
    case TokenType::kInt8: return body(std::type_identity<int8_t>());
    case TokenType::kInt16: return body(std::type_identity<int16_t>());
    case TokenType::kInt32: return body(std::type_identity<int32_t>());
    case TokenType::kInt64: return body(std::type_identity<int64_t>());
    case TokenType::kUInt16: return body(std::type_identity<uint16_t>());
  }
}

class DatasetIndex {
 public:
  // Checks every field. Throws DataError that names the file, the offset, what was expected and what is there. The bytes must outlive the
  // index; `file` is their name in errors.
  DatasetIndex(std::span<const std::byte> bytes, const std::string& file);

  TokenType type() const { return type_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  // Token at which a document begins; of the document behind the last, the number of tokens.
  int64_t begin_of(int64_t document) const;

 private:
  template <class T>
  T at(int64_t offset) const;
  int64_t length_of(int64_t sequence) const { return at<int32_t>(lengths_ + sequence * 4); }
  int64_t first_sequence_of(int64_t document) const { return at<int64_t>(firsts_ + document * 8); }
  void check_header(const std::string& file);
  void check_sequences(const std::string& file);
  void check_documents(const std::string& file) const;

  std::span<const std::byte> bytes_;
  TokenType type_{};
  int64_t sequences_ = 0, documents_ = 0, tokens_ = 0;
  int64_t lengths_ = 0, pointers_ = 0, firsts_ = 0;  // offsets of the three tables
};

}  // namespace ropewalk
