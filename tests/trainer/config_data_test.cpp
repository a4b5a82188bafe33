// What a run reads: `model.tokenizer` and the section `data`.
#include "tests/trainer/config_text.h"

namespace ropewalk {
namespace {

using testing::kSmall;
using testing::mistake;
using testing::parse;
using testing::small_with;

// kSmall with another tokenizer and another source.
std::string with_data(const std::string& tokenizer, const std::string& source) {
  std::string text = small_with("d_model: 64", "d_model: 64\n  tokenizer: " + tokenizer);
  const std::string from = "{type: text, path: kjv.txt}";
  return text.replace(text.find(from), from.size(), source);
}

DataOptions data_of(const std::string& tokenizer, const std::string& source, const std::vector<std::string>& overrides = {}) {
  return parse(with_data(tokenizer, source), overrides).options.data;
}

void expect_mistake(const std::string& tokenizer, const std::string& source, const std::string& message) {
  EXPECT_EQ(mistake([&] { parse(with_data(tokenizer, source)); }), "configs/x.yaml:" + message) << source;
}

TEST(ConfigData, ReadsTokenizers) {
  EXPECT_EQ(parse(kSmall).options.tokenizer, TokenizerOptions{});
  const Options ids = parse(with_data("{vocab: 50304}", "{type: indexed, path: a/b}")).options;
  EXPECT_EQ(ids.tokenizer, (TokenizerOptions{.kind = TokenizerOptions::kUnknown, .path = {}, .vocabulary = 50304}));
  EXPECT_EQ(ids.model.vocabulary, 50304);
}

TEST(ConfigData, RefusesTokenizersThatAreNone) {
  const std::string source = "{type: indexed, path: a}",
                    expected = "expected bytes, a SentencePiece model (FILE.model) or {vocab: N}, given ";
  expect_mistake("bites", source, "3: model.tokenizer: " + expected + "bites");
  expect_mistake("[bytes]", source, "3: model.tokenizer: " + expected + "[bytes]");
  expect_mistake("{vocab: 0}", source, "3: model.tokenizer.vocab: expected a positive integer, given 0");
  expect_mistake("{vocap: 9}", source, "3: model.tokenizer.vocap: unknown key; did you mean vocab?");
  expect_mistake("none.model", source, "3: model.tokenizer: none.model: no such file; expected a SentencePiece model");
}

TEST(ConfigData, ReadsSources) {
  EXPECT_EQ(data_of("bytes", "{type: indexed, path: a/b}").source, Source(IndexedSource{"a/b"}));
  const MqarSource mqar{.vocab = 256, .train = {{64, 4, 100'000}}, .test = {{64, 4, 3'000}}, .power_a = 0.01, .random_non_queries = true};
  EXPECT_EQ(data_of("{vocab: 256}", "{type: mqar, length: 64, pairs: 4}").source, Source(mqar));
  const MqarSource mix{
      .vocab = 512, .train = {{64, 4, 10}, {128, 8, 20}}, .test = {{128, 32, 5}}, .power_a = 1, .random_non_queries = false};
  EXPECT_EQ(data_of("{vocab: 999}",
                    "{type: mqar, vocab: 512, train: [{length: 64, pairs: 4, count: 10}, {length: 128, pairs: 8, count: 20}], "
                    "test: [{length: 128, pairs: 32, count: 5}], power_a: 1, random_non_queries: false}")
                .source,
            Source(mix));
}

TEST(ConfigData, ReadsBlends) {
  const DataOptions data = data_of("bytes",
                                   "{type: blend, sources: [{weight: 0.7, source: {type: text, path: a.txt}}, "
                                   "{weight: 0.3, validation: 0.1, source: {type: indexed, path: b}}]}",
                                   {"data.validation=0.05"});
  const auto& sources = std::get<BlendSource>(data.source).sources;
  ASSERT_EQ(sources.size(), 2u);
  EXPECT_EQ(sources[0].weight, 0.7);
  EXPECT_EQ(std::get<TextSource>(sources[0].source).path, "a.txt");
  EXPECT_EQ(std::get<TextSource>(sources[0].source).key, "data.source.sources.0.source.path");
  EXPECT_EQ(sources[0].validation, std::nullopt);
  EXPECT_EQ(sources[1], (BlendPart{.weight = 0.3, .source = IndexedSource{"b"}, .validation = 0.1}));
  EXPECT_EQ(data.validation, 0.05);
}

TEST(ConfigData, ReadsAValidationSource) {
  EXPECT_EQ(data_of("bytes", "{type: text, path: a}\n  validation_source: {type: indexed, path: b}").validation_source,
            DocumentSource(IndexedSource{"b"}));
  EXPECT_EQ(data_of("bytes", "{type: text, path: a}\n  validation_source: null").validation_source, std::nullopt);
}

TEST(ConfigData, ResolvesToTheSameOptions) {
  for (const char* source :
       {"{type: mqar, vocab: 128, length: 64, pairs: 4}",
        "{type: mqar, vocab: 256, train: [{length: 64, pairs: 4, count: 1}], test: [{length: 64, pairs: 4, count: 1}]}",
        "{type: blend, sources: [{weight: 1, source: {type: indexed, path: a}}]}",
        "{type: text, path: a}\n  validation_source: {type: text, path: b}"}) {
    const Config config = parse(with_data("bytes", source));
    EXPECT_EQ(parse(config.resolved).options, config.options) << source;
  }
}

TEST(ConfigData, RefusesSourcesThatAreNone) {
  expect_mistake("bytes", "{type: web, path: a}", "16: data.source.type: expected text, indexed, blend or mqar, given web");
  expect_mistake("bytes", "{type: indexed}", "16: data.source.path: required, not given");
  expect_mistake("bytes", "{type: indexed, path: a, documents: file}",
                 "16: data.source.documents: unknown key; expected one of type or path");
  expect_mistake("{vocab: 9}", "{type: text, path: a}",
                 "16: data.source.type: text needs model.tokenizer: bytes or a SentencePiece model, given {vocab: N}");
  expect_mistake("bytes", "{type: blend}", "16: data.source.sources: expected one or more of {weight: W, source: {...}}, given nothing");
  expect_mistake("bytes", "{type: blend, sources: [{weight: 0, source: {type: text, path: a}}]}",
                 "16: data.source.sources.0.weight: expected a positive number, given 0");
  expect_mistake("bytes", "{type: blend, sources: [{weight: 1, source: {type: text}}]}",
                 "16: data.source.sources.0.source.path: required, not given");
  expect_mistake("bytes", "{type: text, path: a}\n  validation_source: {type: mqar}",
                 "17: data.validation_source.type: expected text or indexed, given mqar");
}

TEST(ConfigData, RefusesImpossibleTasks) {
  const auto refused = [](const std::string& keys, const std::string& message) {
    expect_mistake("{vocab: 256}", "{type: mqar, " + keys + "}", "16: data.source." + message);
  };
  refused("vocab: 255, length: 64, pairs: 4", "vocab: expected an even number, given 255");
  refused("vocab: 512, length: 64, pairs: 4", "vocab: expected at most the 256 ids of model.tokenizer, given 512");
  refused("length: 63, pairs: 4", "length: expected an even number, given 63");
  refused("length: 64, pairs: 17", "pairs: expected at most a quarter of length (64), given 17");
  refused("vocab: 64, length: 64, pairs: 4", "length: expected less than vocab (64), given 64");
  refused("length: 130, pairs: 4", "length: expected at most data.seq_len (128), given 130");
  refused("pairs: 4", "length: required, not given");
  refused("train: []", "train: expected one or more of {length: T, pairs: K, count: N}, given []");
  refused("train: [{length: 64, pairs: 4}]", "train.0.count: required, not given");
  refused("length: 64, pairs: 4, test: [1]", "test: expected a positive integer, given [1]");
}

TEST(ConfigData, RefusesTwoValidations) {
  EXPECT_EQ(
      mistake([] { parse(with_data("bytes", "{type: text, path: a}\n  validation_source: {type: text, path: b}\n  validation: 0.1")); }),
      "configs/x.yaml:18: data.validation: data.validation_source is the validation already; leave one of them out");
  EXPECT_EQ(mistake([] { parse(with_data("{vocab: 256}", "{type: mqar, length: 64, pairs: 4}\n  validation: 0.1")); }),
            "configs/x.yaml:17: data.validation: mqar has test examples of its own; leave it out");
}

}  // namespace
}  // namespace ropewalk
