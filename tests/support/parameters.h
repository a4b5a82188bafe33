// What a rank owns of a model's parameters, as one flat tensor laid out like the optimizer's state (ParameterStore::span). Copies.
#pragma once

#include "parallel/parameter_store.h"

namespace ropewalk::testing {

inline Tensor masters(const ParameterStore& store) {
  const Tensor all = Tensor::empty({store.owned()}, store.wide_dtype());
  for (const PlacedPart& part : store.parts()) ParameterStore::span(all, part).copy_from(store.master(part));
  return all;
}

inline Tensor gradients(const ParameterStore& store) {
  const Tensor all = Tensor::empty({store.owned()}, store.wide_dtype());
  for (const PlacedPart& part : store.parts()) ParameterStore::span(all, part).copy_from(store.grad(part));
  return all;
}

}  // namespace ropewalk::testing
