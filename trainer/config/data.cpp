// What a run reads: `model.tokenizer` and the section `data`.
#include "data/sentencepiece_tokenizer.h"
#include "trainer/config/sections.h"

namespace ropewalk {
namespace {

constexpr const char* kTokenizers = "bytes, a SentencePiece model (FILE.model) or {vocab: N}";

constexpr const char* kTypeMeaning = "What the data is.";
constexpr const char* kTextMeaning = "Text files, tokenized as they are read.";
constexpr const char* kIndexedMeaning = "A dataset that is tokenized already, in Megatron's format.";

IndexedSource read_indexed(const Node& node) {
  return {.path = node["path"].about("PATH of PATH.idx and PATH.bin; relative to the working folder.").text()};
}

TextSource read_text(const Node& node, const TokenizerOptions& tokenizer) {
  if (tokenizer.kind == TokenizerOptions::kUnknown)
    throw node["type"].error("text needs model.tokenizer: bytes or a SentencePiece model, given {vocab: N}");
  TextSource text;
  text.path = node["path"].about("A file, or a folder of files; relative to the working folder.").text();
  text.documents = node["documents"]
                       .about("What ends a document; the separator is no content.")
                       .choice<DocumentEnd>(
                           {{"file", DocumentEnd::kFile}, {"form_feed", DocumentEnd::kFormFeed}, {"blank_line", DocumentEnd::kBlankLine}},
                           text.documents);
  text.key = node["path"].path();
  return text;
}

MqarKind read_kind(const Node& node, int64_t count, const MqarSource& mqar, int64_t seq_len) {
  const Node length = node["length"].about("Tokens of an example; even, and less than `vocab`.");
  const Node pairs = node["pairs"].about("Pairs of keys and values in it; at most a quarter of `length`.");
  const MqarKind kind{.length = length.size(), .pairs = pairs.size(), .count = count};
  if (kind.length % 2 != 0) throw length.error(fmt::format("expected an even number, given {}", kind.length));
  if (kind.length >= mqar.vocab) throw length.error(fmt::format("expected less than vocab ({}), given {}", mqar.vocab, kind.length));
  if (seq_len > 0 && kind.length > seq_len)
    throw length.error(fmt::format("expected at most data.seq_len ({}), given {}", seq_len, kind.length));
  if (4 * kind.pairs > kind.length)
    throw pairs.error(fmt::format("expected at most a quarter of length ({}), given {}", kind.length, kind.pairs));
  return kind;
}

std::vector<MqarKind> read_kinds(const Node& list, const MqarSource& mqar, int64_t seq_len) {
  std::vector<MqarKind> kinds;
  for (const Node& item : list.items()) kinds.push_back(read_kind(item, item["count"].about("How many examples.").size(), mqar, seq_len));
  if (kinds.empty()) throw list.expected("one or more of {length: T, pairs: K, count: N}");
  return kinds;
}

MqarSource read_mqar(const Node& node, const TokenizerOptions& tokenizer, int64_t seq_len) {
  MqarSource mqar;
  const Node vocab = node["vocab"].about("Ids in use: keys are below half of it, values above; even.", "the tokenizer's vocabulary");
  mqar.vocab = vocab.size(tokenizer.vocabulary);
  if (mqar.vocab % 2 != 0) throw vocab.error(fmt::format("expected an even number, given {}", mqar.vocab));
  if (mqar.vocab > tokenizer.vocabulary)
    throw vocab.error(fmt::format("expected at most the {} ids of model.tokenizer, given {}", tokenizer.vocabulary, mqar.vocab));
  const Node train = node["train"].about("How many examples to train on, or a list of kinds with a `length` and `pairs` each.");
  const Node test = node["test"].about("The same to validate on.");
  if (train.is(Value::kList)) {
    mqar.train = read_kinds(train, mqar, seq_len);
    mqar.test = read_kinds(test, mqar, seq_len);
  } else {
    mqar.train = {read_kind(node, train.size(100'000), mqar, seq_len)};
    mqar.test = {read_kind(node, test.size(3'000), mqar, seq_len)};
  }
  mqar.power_a = node["power_a"].about("Power law of the distance from a pair to its query; 1 is uniform.").number(kPositive, mqar.power_a);
  mqar.random_non_queries =
      node["random_non_queries"].about("Whether the places between queries hold random ids, or 0.").flag(mqar.random_non_queries);
  return mqar;
}

Source read_source(const Node& node, const TokenizerOptions& tokenizer, int64_t seq_len);

BlendSource read_blend(const Node& node, const TokenizerOptions& tokenizer, int64_t seq_len) {
  BlendSource blend;
  const Node list = node["sources"].about("The sources and their weights.", "required");
  for (const Node& item : list.items()) {
    BlendPart part;
    part.weight = item["weight"].about("Share of the tokens, to the sum of all weights.").number(kPositive);
    if (const Node share = item["validation"].about("Share of this source's documents that is held out.", "`data.validation`");
        share.given())
      part.validation = share.number(kBelowOne);
    part.source = read_source(item["source"].about("A source.").same_as("data.source"), tokenizer, seq_len);
    blend.sources.push_back(std::move(part));
  }
  if (blend.sources.empty()) throw list.expected("one or more of {weight: W, source: {...}}");
  return blend;
}

Source read_source(const Node& node, const TokenizerOptions& tokenizer, int64_t seq_len) {
  enum Type { kText, kIndexed, kBlend, kMqar };
  const Node type = node["type"].about(kTypeMeaning);
  switch (type.choice<Type>({{"text", kText}, {"indexed", kIndexed}, {"blend", kBlend}, {"mqar", kMqar}})) {
    case kText: return read_text(node.as("type", "text").about(kTextMeaning), tokenizer);
    case kIndexed: return read_indexed(node.as("type", "indexed").about(kIndexedMeaning));
    case kBlend: return read_blend(node.as("type", "blend").about("Several sources by weight."), tokenizer, seq_len);
    case kMqar:
      return read_mqar(node.as("type", "mqar").about("Multi-query associative recall: a task made on the fly."), tokenizer, seq_len);
  }
  return {};
}

DocumentSource read_document_source(const Node& node, const TokenizerOptions& tokenizer) {
  if (node["type"].about(kTypeMeaning).choice<bool>({{"text", true}, {"indexed", false}}))
    return read_text(node.as("type", "text").about(kTextMeaning), tokenizer);
  return read_indexed(node.as("type", "indexed").about(kIndexedMeaning));
}

void check_validation(const Node& share, const DataOptions& data) {
  if (data.validation == 0) return;
  if (data.validation_source) throw share.error("data.validation_source is the validation already; leave one of them out");
  if (std::holds_alternative<MqarSource>(data.source)) throw share.error("mqar has test examples of its own; leave it out");
}

}  // namespace

TokenizerOptions read_tokenizer(const Node& node) {
  if (node.is(Value::kMap))
    return {.kind = TokenizerOptions::kUnknown,
            .path = {},
            .vocabulary = node["vocab"].about("Size of the vocabulary of data that is tokenized already.").size()};
  if (node.given() && !node.is(Value::kScalar)) throw node.expected(kTokenizers);
  const std::string name = node.text("bytes");
  if (name == "bytes") return {};
  if (!name.ends_with(".model")) throw node.expected(kTokenizers);
  try {
    return {.kind = TokenizerOptions::kSentencePiece, .path = name, .vocabulary = SentencePieceTokenizer(name).vocabulary()};
  } catch (const Error& error) {
    throw node.error(error.what());
  }
}

DataOptions read_data(const Node& node, const TokenizerOptions& tokenizer) {
  DataOptions data;
  const Node source = node["source"].about("Where the tokens come from.", "required to train");
  const Node validation_source = node["validation_source"].about("What to validate on in the place of a held-out share; null: none.");
  if (const Node seq_len = node["seq_len"].about("Tokens of a sequence.", "required to train"); seq_len.given())
    data.seq_len = seq_len.size();
  if (source.given()) data.source = read_source(source, tokenizer, data.seq_len);
  if (!validation_source.is_null(true)) data.validation_source = read_document_source(validation_source, tokenizer);
  data.packed = node["packed"]
                    .about("Several documents a sequence, with nothing leaking across their borders; false: state and attention run on.")
                    .flag(data.packed);
  data.validation = node["validation"].about("Share of the documents that is held out.").number(kBelowOne, data.validation);
  check_validation(node["validation"], data);
  return data;
}

}  // namespace ropewalk
