// A small configuration to make mistakes in.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "trainer/config/config.h"

namespace ropewalk::testing {

inline const std::string kSmall = R"(model:
  d_model: 64
  blocks:
    M: {mixer: mamba2, heads: 8, head_dim: 16, state: 16}
    A: {mixer: attention, heads: 4}
    F: {ffn: mlp, hidden: 128}
    H: {parallel: {branches: [A, M]}}
  layout: {pattern: MFAFHF}
optimizer:
  lr: 3.0e-3
  schedule: {type: wsd, warmup: 100}
  groups:
    - {name: ssm, match: {kind: ssm}, lr: 1.0e-3}
data:
  source: {type: text, path: kjv.txt}
  seq_len: 128
train: {steps: 10, batch: 8}
)";

// kSmall with one text in the place of another.
inline std::string small_with(const std::string& from, const std::string& to) {
  std::string text = kSmall;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

inline Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "configs/x.yaml", overrides);
}

// What ConfigError says when `body` runs.
template <class Body>
std::string mistake(const Body& body) {
  try {
    body();
  } catch (const ConfigError& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no mistake";
}

}  // namespace ropewalk::testing
