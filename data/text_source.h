// Text from disk, as documents.
#pragma once

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
};

// The documents that have at least one byte. Throws DataError where the path cannot be read or holds no document.
std::vector<std::string> read_documents(const TextSource& source);

}  // namespace ropewalk
