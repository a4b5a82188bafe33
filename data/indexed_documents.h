// Documents of an indexed dataset (dataset_index.h), read where they lie: nothing but the mapping is kept.
#pragma once

#include <memory>
#include <string>

#include "data/dataset_index.h"
#include "data/documents.h"
#include "data/mapped_file.h"

namespace ropewalk {

// PREFIX.idx and PREFIX.bin.
class IndexedFile {
 public:
  // Throws DataError where the two do not fit each other, or where some documents end with `end` and some do not.
  IndexedFile(const std::string& prefix, int64_t vocabulary, std::optional<Token> end);

  const DatasetIndex& index() const { return index_; }
  std::optional<Token> end_of_document() const { return end_; }
  // Whether the documents were written with their ends, as `tokenize` and Megatron's --append-eod do.
  bool holds_ends() const { return holds_ends_; }
  // Tokens [begin, begin + into.size()) of the file. Throws DataError for one outside the vocabulary.
  void read(int64_t begin, std::span<int64_t> into) const;
  // Throws DataError where this token is not the end of a document.
  void expect_end(int64_t at) const;
  // Of the index, and of the tokens in 64 blocks of 64 KiB spread evenly: all of a small file, and of a large one enough to tell it from
  // another without reading it through.
  uint64_t digest() const;

 private:
  bool find_ends() const;

  MappedFile index_file_, token_file_;
  DatasetIndex index_;
  int64_t vocabulary_;
  std::optional<Token> end_;
  bool holds_ends_;
};

// Some of the documents of a file.
class IndexedDocuments final : public Documents {
 public:
  // Those of each `period` whose number mod period is period - 1, or those for which it is not; all of them where period is 0.
  // Of these, the tokens [first_token, end_token) of the file.
  struct Selection {
    int64_t period = 0;
    bool last_of_period = false;
    int64_t first_token = 0, end_token = 0;
  };
  IndexedDocuments(std::shared_ptr<const IndexedFile> file, const Selection& selection);

  int64_t count() const override { return count_; }
  int64_t tokens() const override { return tokens_; }
  int64_t length(int64_t document) const override;
  void read(int64_t document, int64_t begin, std::span<int64_t> into) const override;
  uint64_t digest() const override;
  std::optional<Token> end_of_document() const override { return file_->end_of_document(); }

 private:
  struct Range {
    int64_t begin, end;
    bool has_end;  // its last token is the end of the document
  };
  int64_t number_of(int64_t document) const;
  Range range_of(int64_t document) const;

  std::shared_ptr<const IndexedFile> file_;
  Selection selection_;
  int64_t first_ = 0, count_ = 0, tokens_ = 0;
};

struct IndexedSplit {
  std::unique_ptr<Documents> train, validation;  // no validation where the share is 0
};
// By the rule for texts (hold_out.h), with tokens for bytes.
IndexedSplit hold_out(const std::shared_ptr<const IndexedFile>& file, double share);

}  // namespace ropewalk
