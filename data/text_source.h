// Text from disk, as documents.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace ropewalk {

// What ends a document inside a file; the end of the file always does. A separator belongs to no document.
enum class DocumentEnd {
  kFile,
  kFormFeed,
  kBlankLine,  // any number of lines with nothing but spaces, tabs and carriage returns
};

struct TextSource {
  std::string path;  // a file, or a folder: every file below it in the order of their paths, but none whose path has a hidden part
  DocumentEnd documents = DocumentEnd::kFile;
  std::string key = "data.source.path";  // what named the path, for errors
  bool operator==(const TextSource&) const = default;
};

// Hands out the documents that have at least one byte, with a file at a time in memory. Throws DataError where the path cannot be read or
// holds no document.
void for_each_document(const TextSource& source, const std::function<void(std::string)>& take);
// All of them.
std::vector<std::string> read_documents(const TextSource& source);

}  // namespace ropewalk
