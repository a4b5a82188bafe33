// Text from a model, token by token: recurrent state for SSM layers, a key/value cache for attention.
#pragma once

#include <functional>
#include <string>

#include "data/tokenizer.h"
#include "trainer/rank_model.h"

namespace ropewalk {

// A sequence being decoded on one rank. Feeding tokens in any chunks gives what the parallel forward over all of them gives.
class Decoder {
 public:
  Decoder(const RankModel& model, int64_t capacity);

  // Logits [V] (wide) behind the last of these tokens.
  Tensor feed(const std::vector<int64_t>& tokens);

 private:
  const RankModel& model_;
  std::vector<State> states_;
  int64_t length_ = 0;
};

struct GenerateOptions {
  std::string prompt;
  int64_t tokens = 256;      // at most; the end of the document ends it
  double temperature = 0.8;  // 0: always the likeliest
  double top_p = 1;          // draw from the smallest set of tokens with this much probability
  uint64_t seed = 1;
};

// Hands out the text (prompt first) piece by piece as it comes.
void generate(const RankModel& model, const Tokenizer& tokenizer, const GenerateOptions& options,
              const std::function<void(const std::string&)>& emit);

}  // namespace ropewalk
