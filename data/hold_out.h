// Which part of the text is for validation and never trained on.
#pragma once

#include <string>
#include <vector>

#include "data/error.h"

namespace ropewalk {

struct HoldOut {
  std::vector<std::string> train, validation;
};

// Holds out the documents k with k mod p = p - 1, p = round(1 / share): evenly spread, the same whatever the seed. With fewer than 1 /
// share documents, holds out the last share of the bytes instead, cutting a document where that falls inside it. A share of 0 holds out
// nothing. Throws DataError where nothing would be left for one of the two.
HoldOut hold_out(std::vector<std::string> documents, double share);

// The error of a share that leaves nothing: of so many documents, so many bytes or tokens.
DataError nothing_left(double share, int64_t documents, const std::string& amount, bool training);

}  // namespace ropewalk
