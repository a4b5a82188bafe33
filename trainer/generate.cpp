#include "trainer/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/tensor/philox.h"

namespace ropewalk {
namespace {

int64_t sample(const Tensor& logits, const GenerateOptions& options, double uniform) {
  const auto values = logits.to_vector<double>();
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  if (options.temperature == 0) return static_cast<int64_t>(order.front());

  std::vector<double> weights;
  for (const size_t token : order) weights.push_back(std::exp((values[token] - values[order.front()]) / options.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t kept = 0;
  double mass = 0;
  while (kept < weights.size() && mass < options.top_p * total) mass += weights[kept++];
  double left = uniform * mass;
  for (size_t i = 0; i < kept; ++i)
    if ((left -= weights[i]) < 0) return static_cast<int64_t>(order[i]);
  return static_cast<int64_t>(order[kept - 1]);
}

}  // namespace

Decoder::Decoder(const RankModel& model, int64_t capacity)
    : model_(model), states_(model.model().make_states(1, capacity, model.pipeline_options().dtype)) {}

Tensor Decoder::feed(const std::vector<int64_t>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  const Microbatch batch{.layout = make_decode_layout(1, count, length_), .tokens_BS = Tensor::from({1, count}, tokens), .targets_BS = {}};
  const PipelineOptions options = model_.pipeline_options();
  const Context ctx{.batch = batch, .cp = options.cp, .dtype = options.dtype, .states = states_};
  length_ += count;
  return model_.model().next_logits(batch.tokens_BS, ctx).select(0, 0);
}

void generate(const RankModel& model, const Tokenizer& tokenizer, const GenerateOptions& options,
              const std::function<void(const std::string&)>& emit) {
  if (!tokenizer.has_text()) throw Error(2, "generate: expected a model with a tokenizer, given one with model.tokenizer: {vocab: N}");
  const Token end = *tokenizer.end_of_document();
  std::vector<int64_t> next = {end};  // as a token, the end opens a document
  for (const Token token : tokenizer.encode(options.prompt)) next.push_back(token);
  emit(options.prompt);
  Decoder decoder(model, static_cast<int64_t>(next.size()) + options.tokens);
  const Philox random(options.seed, "generate");
  for (int64_t i = 0; i < options.tokens; ++i) {
    const int64_t token = sample(decoder.feed(next), options, random.uniform(static_cast<uint64_t>(i)));
    if (token == end) return;
    next = {token};
    emit(tokenizer.text_of(static_cast<Token>(token)));
  }
}

}  // namespace ropewalk
