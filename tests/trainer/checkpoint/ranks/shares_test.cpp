// Checkpoints that several ranks write, each its share.
#include <sys/resource.h>

#include <csignal>
#include <optional>

#include "tests/support/ranks.h"
#include "tests/trainer/checkpoint/checkpoint_support.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace ropewalk::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// One folder for all ranks; rank 0 makes and removes it.
class SharedFolder {
 public:
  SharedFolder() {
    if (world().rank() == 0) folder_.emplace();
    path_ = world().broadcast(folder_ ? folder_->path() : "");
  }
  ~SharedFolder() { world().barrier("folder"); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::optional<TemporaryFolder> folder_;
  std::string path_;
};

const std::vector<Named>& tensors() {
  static const std::vector<Named> all = {{"embedding", random_bits({700, 1100}, DType::kFloat64, 1)},
                                         {"norm", random_bits({17}, DType::kFloat32, 2)},
                                         {"out", random_bits({36, 5, 3}, DType::kBFloat16, 3)}};
  return all;
}

// This rank's share: the embedding by rows and columns, the norm on rank 0, `out` on the first `owners` ranks.
std::vector<Box> share(int owners) {
  std::vector<Box> mine = {cut(tensors()[0], {2, 2})[world().rank()]};
  if (world().rank() == 0) mine.push_back(whole(tensors())[1]);
  const std::vector<Box> parts = cut(tensors()[2], {4, 5, 1});
  for (size_t i = 0; i < parts.size(); ++i)
    if (static_cast<int>(i) % owners == world().rank()) mine.push_back(parts[i]);
  return mine;
}

std::string write(const std::string& root, const std::vector<Box>& mine, int64_t step = 100) {
  return write_checkpoint(root, {.step = step}, mine, world());
}

// The message of the error of exit code `code` that every rank ends with, the same on all.
std::string error_of_all(int code, const std::string& root, const std::vector<Box>& mine) {
  std::string message;
  try {
    write(root, mine);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), code);
    message = error.what();
  }
  EXPECT_EQ(message, world().broadcast(message));
  return message;
}

// Files of this process end here: a disk that is full on one rank only.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : before_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit low = {bytes, limit_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &low);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &limit_);
    std::signal(SIGXFSZ, before_);
  }

 private:
  rlimit limit_{};
  void (*before_)(int);
};

TEST(Shares, ReadAsOneCheckpointOnAnyRank) {
  const SharedFolder folder;
  const std::string one = folder / "one";
  if (world().rank() == 0) write_checkpoint(one, {.step = 100}, whole(tensors()), Group());
  world().barrier("one");
  for (const int owners : {4, 2}) {
    const std::string path = write(folder / "shares", share(owners));
    EXPECT_EQ(newest_checkpoint(folder / "shares"), path);
    expect_holds(path, tensors());
    CheckpointReader(path).verify();
    EXPECT_EQ(digest_of(path), digest_of(one + "/step-00000100"));
  }
}

TEST(Shares, OfARankThatOwnsNothingNeedNoFile) {
  const SharedFolder folder;
  const std::string path = write(folder / "c", world().rank() == 2 ? whole(tensors()) : std::vector<Box>{});
  expect_holds(path, tensors());
  EXPECT_THAT(names_in(path), ::testing::ElementsAre("manifest.pb", "shard-00002.safetensors"));
}

TEST(Shares, WithAFlippedByteAreRefusedByName) {
  const SharedFolder folder;
  const std::string path = write(folder / "c", share(4));
  if (world().rank() != 0) return;
  std::mt19937_64 random(3);
  const std::vector<std::string> names = names_in(path);
  EXPECT_EQ(names.size(), 5u);
  for (int i = 0; i < 50; ++i) {
    const std::string file = path + "/" + names[i % names.size()], good = content_of(file);
    std::string bad = good;
    bad[random() % bad.size()] ^= static_cast<char>(1 << random() % 8);
    set_content(file, bad);
    const auto named = AllOf(HasSubstr(file), AnyOf(HasSubstr("manifest"), HasSubstr("tensor embedding"), HasSubstr("tensor out")));
    EXPECT_THAT(checkpoint_error([&] { CheckpointReader(path).verify(); }), named);
    EXPECT_THAT(checkpoint_error([&] { read_everything(path); }), named);
    set_content(file, good);
  }
}

TEST(Shares, FailOnAllRanksWhereOneFails) {
  const SharedFolder folder;
  const std::string root = folder / "c", before = write(root, share(4), 50);
  {
    std::optional<FullDisk> full;
    if (world().rank() == 2) full.emplace(100000);
    EXPECT_EQ(error_of_all(3, root, share(4)), root + "/.step-00000100.partial/shard-00002.safetensors: cannot write: File too large");
  }
  EXPECT_EQ(newest_checkpoint(root), before);
  world().barrier("looked");
  EXPECT_THAT(names_in(root), ::testing::ElementsAre("latest", "step-00000050"));
  world().barrier("looked");
  expect_holds(write(root, share(4)), tensors());
}

TEST(Shares, WrittenBesideTheTrainingFailOnAllRanksWhereOneFails) {
  const SharedFolder folder;
  const std::string root = folder / "c", before = write(root, share(4), 50);
  const auto save_beside = [&] { return CheckpointSave(root, {.step = 100}, share(4), world()).finish(); };
  std::string message;
  {
    std::optional<FullDisk> full;
    if (world().rank() == 2) full.emplace(100000);
    try {
      save_beside();
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), 3);
      message = error.what();
    }
  }
  EXPECT_EQ(message, root + "/.step-00000100.partial/shard-00002.safetensors: cannot write: File too large");
  EXPECT_EQ(newest_checkpoint(root), before);
  world().barrier("looked");
  EXPECT_THAT(names_in(root), ::testing::ElementsAre("latest", "step-00000050"));
  world().barrier("looked");
  expect_holds(save_beside(), tensors());
}

TEST(Shares, ThatDoNotTileAreRefusedOnAllRanks) {
  const SharedFolder folder;
  std::vector<Box> mine = share(4);
  if (world().rank() == 3) mine.push_back(whole(tensors())[1]);
  EXPECT_THAT(error_of_all(3, folder / "c", mine),
              HasSubstr("tensor norm [17]: expected every element in one box, found [0:17] of shard-00000.safetensors and [0:17] of "
                        "shard-00003.safetensors to overlap"));
  mine = share(4);
  if (world().rank() == 1) mine.clear();
  EXPECT_THAT(error_of_all(3, folder / "c", mine), HasSubstr("tensor embedding [700, 1100]: expected every element in one box, found"));
  mine = share(4);
  if (world().rank() == 1) mine[0].global = {701, 1100};
  EXPECT_THAT(error_of_all(3, folder / "c", mine), HasSubstr("tensor embedding: expected the same dtype and shape in all boxes"));
  mine = share(4);
  if (world().rank() == 1) mine[0].start = {699, 0};
  EXPECT_THAT(error_of_all(2, folder / "c", mine), HasSubstr("embedding: [700, 1100] has no [699:1049, 0:550]"));
  EXPECT_TRUE(names_in(folder / "c").empty());
}

}  // namespace
}  // namespace ropewalk::testing
