// What `ropewalk VERB` does, behind the command line.
#pragma once

#include <string>
#include <vector>

#include "data/tokenize.h"
#include "trainer/bench.h"
#include "trainer/generate.h"
#include "trainer/job.h"

namespace ropewalk {

struct ConfigArguments {
  std::string file;
  std::vector<std::string> overrides;  // key.path=value
};

void train(const Job& job, const ConfigArguments& arguments);
void bench(const Job& job, const ConfigArguments& arguments, const BenchOptions& options);
void doctor();  // throws Error of exit code 5 where an op fails
void eval(const Job& job, const ConfigArguments& arguments);
void params(const ConfigArguments& arguments);
void generate(const std::string& checkpoint, const GenerateOptions& options);

struct InspectArguments {
  std::string checkpoint;
  bool verify = false, digest = false;
};
void inspect(const InspectArguments& arguments);

struct TokenizeArguments {
  std::string text, prefix, tokenizer = "bytes";
  DocumentEnd documents = DocumentEnd::kFile;
  bool train = false;
  SentencePieceTraining training;
};
void tokenize(const TokenizeArguments& arguments);

}  // namespace ropewalk
