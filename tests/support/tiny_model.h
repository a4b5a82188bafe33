// Small models that hold everything between them, and rows of packed documents for them. What a test says of a layout, of decoding or of
// checkpoints, it says of each of these.
#pragma once

#include <string>
#include <vector>

#include "data/sequence.h"
#include "trainer/options.h"

namespace ropewalk::testing {

struct TinyModel {
  std::string name;  // as it stands in the names of tests
  ModelOptions model;
};

// The first holds what the layers' interfaces carry: Mamba-2, attention with grouped queries and a window, MLP, a parallel pair, a shared
// block called twice on [x; embedding], shared keys and values, a tied head. Each further one holds one subject's kinds and options.
const std::vector<TinyModel>& tiny_models();

// A run of the first model, and of another.
Options tiny_options();
Options tiny_options(const TinyModel& model);

// Row i of an endless set: tokens drawn at random, cut into documents at random places, some of a single token.
Sequence tiny_sequence(int64_t i, int64_t seq_len, int64_t vocabulary);

}  // namespace ropewalk::testing
