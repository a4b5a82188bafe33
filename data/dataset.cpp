#include "data/dataset.h"

#include <numeric>

#include "data/blend.h"
#include "data/error.h"
#include "data/hold_out.h"
#include "data/indexed_documents.h"
#include "data/mqar.h"
#include "data/sequence_index.h"
#include "data/validation_rows.h"

namespace ropewalk {
namespace {

int64_t count_bytes(const Documents& documents, const Tokenizer& tokenizer) {
  int64_t bytes = 0;
  for (int64_t d = 0; d < documents.count(); ++d) {
    std::vector<int64_t> ids(documents.length(d));
    documents.read(d, 0, ids);
    bytes += std::ssize(tokenizer.decode(std::vector<Token>(ids.begin(), ids.end())));
  }
  return bytes;
}

int64_t count_bytes(const std::vector<std::string>& texts) {
  return std::accumulate(texts.begin(), texts.end(), int64_t{0},
                         [](int64_t sum, const std::string& text) { return sum + std::ssize(text); });
}

std::optional<int64_t> sum(std::optional<int64_t> a, std::optional<int64_t> b) { return a && b ? std::optional(*a + *b) : std::nullopt; }

class Loader {
 public:
  Loader(const DataOptions& options, const Tokenizer& tokenizer, uint64_t seed) : options_(options), tokenizer_(tokenizer), seed_(seed) {}

  // A source with this share of it held out.
  Dataset load(const Source& source, double share) const {
    return std::visit([&](const auto& of_type) { return load(of_type, share); }, source);
  }

  // Makes the whole of a source the validation.
  void hold_out_all(const TextSource& source, Dataset& dataset) const {
    const std::vector<std::string> texts = read_documents(source);
    dataset.validation = rows(std::make_unique<TextDocuments>(texts, tokenizer_));
    dataset.validation_bytes = count_bytes(texts);
  }
  void hold_out_all(const IndexedSource& source, Dataset& dataset) const { validate_on(hold_out(open(source), 0).train, dataset); }

 private:
  Dataset load(const TextSource& source, double share) const {
    const HoldOut split = hold_out(read_documents(source), share);
    Dataset dataset;
    dataset.train = sequences(std::make_unique<TextDocuments>(split.train, tokenizer_));
    if (split.validation.empty()) return dataset;
    dataset.validation = rows(std::make_unique<TextDocuments>(split.validation, tokenizer_));
    dataset.validation_bytes = count_bytes(split.validation);
    return dataset;
  }

  Dataset load(const IndexedSource& source, double share) const {
    IndexedSplit split = hold_out(open(source), share);
    Dataset dataset;
    dataset.train = sequences(std::move(split.train));
    if (split.validation) validate_on(std::move(split.validation), dataset);
    return dataset;
  }

  Dataset load(const MqarSource& source, double) const {
    Dataset dataset;
    dataset.train = std::make_unique<MqarSequences>(source, seed_, options_.seq_len, options_.packed);
    dataset.validation = std::make_unique<MqarRows>(mqar_test(source, options_.seq_len, options_.packed));
    dataset.recall = true;
    return dataset;
  }

  Dataset load(const BlendSource& source, double share) const {
    std::vector<double> weights;
    std::vector<std::unique_ptr<Sequences>> train;
    std::vector<std::unique_ptr<ScoredRows>> validation;
    std::optional<int64_t> bytes = 0;
    for (const BlendPart& part : source.sources) {
      Dataset loaded = load(part.source, part.validation.value_or(share));
      weights.push_back(part.weight);
      train.push_back(std::move(loaded.train));
      if (!loaded.validation) continue;
      validation.push_back(std::move(loaded.validation));
      bytes = sum(bytes, loaded.validation_bytes);
    }
    Dataset dataset;
    dataset.train = std::make_unique<Blend>(std::move(weights), std::move(train));
    if (validation.empty()) return dataset;
    dataset.validation = std::make_unique<RowsInTurn>(std::move(validation));
    dataset.validation_bytes = bytes;
    return dataset;
  }

  std::shared_ptr<const IndexedFile> open(const IndexedSource& source) const {
    return std::make_shared<IndexedFile>(source.path, tokenizer_.vocabulary(), tokenizer_.end_of_document());
  }
  std::unique_ptr<Sequences> sequences(std::unique_ptr<Documents> documents) const {
    return std::make_unique<SequenceIndex>(std::move(documents), seed_, options_.seq_len, options_.packed);
  }
  std::unique_ptr<ScoredRows> rows(std::unique_ptr<Documents> documents) const {
    return std::make_unique<ValidationRows>(std::move(documents), options_.seq_len, options_.packed);
  }
  void validate_on(std::unique_ptr<Documents> documents, Dataset& dataset) const {
    if (tokenizer_.has_text()) dataset.validation_bytes = count_bytes(*documents, tokenizer_);
    dataset.validation = rows(std::move(documents));
  }

  const DataOptions& options_;
  const Tokenizer& tokenizer_;
  uint64_t seed_;
};

}  // namespace

Dataset load_dataset(const DataOptions& options, const Tokenizer& tokenizer, uint64_t seed) {
  const Loader loader(options, tokenizer, seed);
  Dataset dataset = loader.load(options.source, options.validation);
  if (options.validation_source) std::visit([&](const auto& source) { loader.hold_out_all(source, dataset); }, *options.validation_source);
  return dataset;
}

}  // namespace ropewalk
