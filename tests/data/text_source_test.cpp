#include "data/text_source.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "data/error.h"

namespace ropewalk {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

// Runs in an empty working folder of its own.
class TextSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / fmt::format("ropewalk-{}-{}", test->name(), getpid());
    fs::create_directories(folder_);
    before_ = fs::current_path();
    fs::current_path(folder_);
  }
  void TearDown() override {
    fs::current_path(before_);
    fs::remove_all(folder_);
  }

  static void write(const fs::path& path, const std::string& text) {
    if (path.has_parent_path()) fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string error_of(const TextSource& source) try {
    read_documents(source);
    return "no error";
  } catch (const DataError& error) {
    EXPECT_EQ(error.exit_code(), 3);
    return error.what();
  }

  fs::path folder_, before_;
};

TEST_F(TextSourceTest, TakesAFileAsOneDocument) {
  write("a.txt", "one\n\ntwo\fthree");
  EXPECT_EQ(read_documents({.path = "a.txt"}), (Texts{"one\n\ntwo\fthree"}));
}

TEST_F(TextSourceTest, ReadsFilesLargerThanItsBuffer) {
  const std::string text(200'001, 'x');
  write("a.txt", text);
  EXPECT_EQ(read_documents({.path = "a.txt"}), (Texts{text}));
}

TEST_F(TextSourceTest, SplitsAtFormFeedsAndDropsEmptyDocuments) {
  write("a.txt", "\fone\n\n1\n\f\ftwo\f");
  EXPECT_EQ(read_documents({.path = "a.txt", .documents = DocumentEnd::kFormFeed}), (Texts{"one\n\n1\n", "two"}));
}

TEST_F(TextSourceTest, SplitsAtBlankLinesAndDropsEmptyDocuments) {
  write("a.txt", "\n\none\n1\n\n \t\r\n\n two\n\nthree");
  EXPECT_EQ(read_documents({.path = "a.txt", .documents = DocumentEnd::kBlankLine}), (Texts{"one\n1\n", " two\n", "three"}));
}

TEST_F(TextSourceTest, ReadsAFolderInTheOrderOfPaths) {
  write("text/b.txt", "b");
  write("text/a/z.txt", "az");
  write("text/B.txt", "B");
  write("text/a.txt", "a\fa2");
  write("text/empty.txt", "");
  EXPECT_EQ(read_documents({.path = "text", .documents = DocumentEnd::kFormFeed}), (Texts{"B", "az", "a", "a2", "b"}));
}

TEST_F(TextSourceTest, SkipsWhatIsHiddenInAFolder) {
  write("text/a.txt", "a");
  write("text/.hidden", "no");
  write("text/.git/config", "no");
  EXPECT_EQ(read_documents({.path = "text"}), (Texts{"a"}));
}

TEST_F(TextSourceTest, NamesAPathThatIsMissing) {
  EXPECT_EQ(error_of({.path = "nowhere/kjv.txt"}),
            "data.source.path: cannot read nowhere/kjv.txt: No such file or directory; expected a file or folder of text "
            "(relative paths are taken from the working folder, " +
                folder_.string() + ")");
}

TEST_F(TextSourceTest, NamesAFileThatFailsWhileItIsRead) {
  EXPECT_EQ(error_of({.path = "/proc/self/mem"}),
            "data.source.path: cannot read /proc/self/mem: Input/output error; expected a file or folder of text "
            "(relative paths are taken from the working folder, " +
                folder_.string() + ")");
}

TEST_F(TextSourceTest, RefusesTextWithoutADocument) {
  write("feeds.txt", "\f\f");
  fs::create_directory("folder");
  EXPECT_EQ(error_of({.path = "feeds.txt", .documents = DocumentEnd::kFormFeed}),
            "data.source.path: expected at least one document in feeds.txt, found none; name a text that is not empty");
  EXPECT_EQ(error_of({.path = "folder"}),
            "data.source.path: expected at least one document in folder, found none; name a text that is not empty");
}

}  // namespace
}  // namespace ropewalk
