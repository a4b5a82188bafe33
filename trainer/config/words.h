// The words of an error message: lists of what is allowed, and the nearest of them to what was given.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace ropewalk {

std::string join(const std::vector<std::string>& words, const std::string& separator);
std::string join_or(const std::vector<std::string>& words);  // "1, 2 or 4"
std::vector<std::string> words_of(const std::vector<int64_t>& numbers);

// The beginning of the text, fit for a message of one line.
std::string shortened(const std::string& text);

// The word a few slips of the hand away from `given`, if there is one.
std::optional<std::string> nearest(const std::string& given, const std::vector<std::string>& words);
// "; did you mean chunk?" or, where nothing is near, "; expected one of chunk, conv or groups".
std::string suggestion(const std::string& given, const std::vector<std::string>& words);

}  // namespace ropewalk
