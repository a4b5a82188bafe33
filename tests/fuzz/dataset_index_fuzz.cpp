// Bytes for IndexedFile: two with the length of PREFIX.bin, PREFIX.bin, and PREFIX.idx. What is wrong is a DataError; of what is right
// every document can be read.
#include <cstring>

#include "data/error.h"
#include "data/indexed_documents.h"
#include "tests/fuzz/fuzz.h"

namespace ropewalk {
namespace {

constexpr int64_t kVocabulary = 300;
constexpr int64_t kEnd = 256;

void read_all(const Documents& documents) {
  int64_t tokens = 0;
  for (int64_t d = 0; d < documents.count(); ++d) {
    fuzz::require(documents.length(d) >= 0, "a document has a negative length");
    std::vector<int64_t> into(static_cast<size_t>(documents.length(d)));
    documents.read(d, 0, into);
    tokens += std::ssize(into);
  }
  fuzz::require(tokens <= documents.tokens(), "the documents hold more tokens than there are");
  documents.digest();
}

void read_halves(const std::shared_ptr<const IndexedFile>& file, double share) {
  const IndexedSplit split = hold_out(file, share);
  read_all(*split.train);
  if (split.validation) read_all(*split.validation);
}

}  // namespace

void fuzz::run_one(const std::string& input) {
  uint16_t tokens = 0;
  if (input.size() < sizeof tokens) return;
  std::memcpy(&tokens, input.data(), sizeof tokens);
  const size_t end = std::min(input.size(), sizeof tokens + tokens);
  static const std::string prefix = (scratch_folder() / "data").string();
  write_file(prefix + ".bin", input.substr(sizeof tokens, end - sizeof tokens));
  write_file(prefix + ".idx", input.substr(end));
  for (const std::optional<Token> ending : {std::optional<Token>(), std::optional<Token>(kEnd)})
    for (const double share : {0.0, 0.25}) try {
        read_halves(std::make_shared<const IndexedFile>(prefix, kVocabulary, ending), share);
      } catch (const DataError&) {
      }
}

}  // namespace ropewalk
