// What a run reads, as plain values. Names follow the keys of the configuration.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "data/text_source.h"
#include "data/tokenizer.h"

namespace ropewalk {

// A dataset already tokenized: PATH.idx and PATH.bin.
struct IndexedSource {
  std::string path;
  bool operator==(const IndexedSource&) const = default;
};

struct MqarKind {
  int64_t length = 0, pairs = 0, count = 0;  // tokens and key-value pairs of an example, number of examples
  bool operator==(const MqarKind&) const = default;
};

// Multi-query associative recall (mqar.h).
struct MqarSource {
  int64_t vocab = 0;
  std::vector<MqarKind> train, test;
  double power_a = 0.01;
  bool random_non_queries = true;
  bool operator==(const MqarSource&) const = default;
};

struct BlendPart;
// Several sources by weight (blend.h).
struct BlendSource {
  std::vector<BlendPart> sources;
  bool operator==(const BlendSource&) const;
};

using DocumentSource = std::variant<TextSource, IndexedSource>;
using Source = std::variant<TextSource, IndexedSource, MqarSource, BlendSource>;

struct BlendPart {
  double weight = 0;
  Source source;
  std::optional<double> validation;  // its own share held out
  bool operator==(const BlendPart&) const = default;
};
inline bool BlendSource::operator==(const BlendSource& other) const { return sources == other.sources; }

struct DataOptions {
  Source source;
  std::optional<DocumentSource> validation_source;  // all of which is held out
  int64_t seq_len = 0;
  bool packed = true;
  double validation = 0;  // share held out
  bool operator==(const DataOptions&) const = default;
};

}  // namespace ropewalk
