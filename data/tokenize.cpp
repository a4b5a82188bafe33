#include "data/tokenize.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "data/encode_all.h"
#include "data/error.h"
#include "data/indexed_writer.h"
#include "data/output_file.h"

namespace ropewalk {
namespace {

constexpr size_t kBatchBytes = size_t{16} << 20;  // of text, tokenized at once

// Tokenizes a batch of texts at a time, and writes in their order.
class Tokenizing {
 public:
  Tokenizing(const Tokenizer& tokenizer, const std::string& prefix)
      : tokenizer_(tokenizer), writer_(prefix, tokenizer.vocabulary() <= 1 << 16 ? TokenType::kUInt16 : TokenType::kInt32) {}

  void take(std::string text) {
    waiting_bytes_ += text.size();
    waiting_.push_back(std::move(text));
    if (waiting_bytes_ >= kBatchBytes) write_waiting();
  }

  TokenizeReport finish() {
    write_waiting();
    writer_.finish();
    return {.documents = writer_.documents(), .tokens = writer_.tokens(), .bytes = bytes_};
  }

 private:
  void write_waiting() {
    for (std::vector<Token>& tokens : encode_all(tokenizer_, waiting_)) {
      tokens.push_back(*tokenizer_.end_of_document());
      writer_.append(tokens);
    }
    bytes_ += static_cast<int64_t>(waiting_bytes_);
    waiting_.clear();
    waiting_bytes_ = 0;
  }

  const Tokenizer& tokenizer_;
  IndexedWriter writer_;
  std::vector<std::string> waiting_;
  size_t waiting_bytes_ = 0;
  int64_t bytes_ = 0;
};

TokenizerOptions trained(const TokenizeOptions& options) {
  const std::string path = options.prefix + ".model", model = train_sentencepiece(options.text, *options.training);
  OutputFile file(path);
  file.write(model.data(), model.size());
  file.sync();
  file.publish();
  return {.kind = TokenizerOptions::kSentencePiece, .path = path};
}

void make_folder_of(const std::string& prefix) {
  const std::filesystem::path folder = std::filesystem::path(prefix).parent_path();
  std::error_code failed;
  if (!folder.empty()) std::filesystem::create_directories(folder, failed);
  if (failed) throw DataError(fmt::format("{}: cannot be made: {}", folder.string(), failed.message()));
}

}  // namespace

TokenizeReport tokenize(const TokenizeOptions& options) {
  make_folder_of(options.prefix);
  const auto tokenizer = make_tokenizer(options.training ? trained(options) : options.tokenizer);
  Tokenizing tokenizing(*tokenizer, options.prefix);
  for_each_document(options.text, [&](std::string text) { tokenizing.take(std::move(text)); });
  return tokenizing.finish();
}

}  // namespace ropewalk
