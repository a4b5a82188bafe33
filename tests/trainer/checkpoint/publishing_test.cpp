#include <omp.h>
#include <sys/wait.h>

#include <csignal>
#include <thread>

#include "tests/trainer/checkpoint/checkpoint_support.h"
#include "tests/trainer/checkpoint/system_calls.h"
#include "trainer/checkpoint/checkpoint_folder.h"

namespace ropewalk::testing {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Named> state(uint64_t seed) {
  return {{"w", random_bits({40, 3}, DType::kFloat32, seed)}, {"x", random_bits({7}, DType::kFloat64, seed + 1)}};
}

std::string write(const std::string& root, int64_t step, uint64_t seed) {
  return write_checkpoint(root, {.step = step, .tokens = static_cast<int64_t>(seed)}, whole(state(seed)), Group());
}

// Writes the boxes as step 100.
using Writer = void (*)(const std::string& root, const std::vector<Box>& boxes);
void at_once(const std::string& root, const std::vector<Box>& boxes) { write_checkpoint(root, {.step = 100, .tokens = 2}, boxes, Group()); }
void beside(const std::string& root, const std::vector<Box>& boxes) {
  CheckpointSave save(root, {.step = 100, .tokens = 2}, boxes, Group());
  save.finish();
}

// What meta().tokens says it is; every visible name in the folder a whole checkpoint.
void expect_whole(const std::string& root) {
  for (const std::string& name : names_in(root)) {
    if (!name.starts_with("step-")) continue;
    CheckpointReader reader(root + "/" + name);
    reader.verify();
    expect_holds(root + "/" + name, state(static_cast<uint64_t>(reader.meta().tokens)));
  }
}

int64_t newest_tokens(const std::string& root) {
  const auto newest = newest_checkpoint(root);
  if (!newest) return -1;
  CheckpointReader reader(*newest);
  reader.verify();
  expect_holds(*newest, state(static_cast<uint64_t>(reader.meta().tokens)));
  return reader.meta().tokens;
}

template <class Body>
int exit_status_of_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    omp_set_num_threads(1);  // a fork has none of its parent's threads
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

// `prepare` leaves a checkpoint in a folder; another one of step 100 is written there, interrupted at one system call after the other.
void interrupt_everywhere(Interruption interruption, const std::function<void(const std::string& root)>& prepare, Writer writer = at_once) {
  bool interrupted = true;
  int call = 0;
  for (; interrupted; ++call) {
    ASSERT_LT(call, 200);
    const TemporaryFolder folder;
    const std::string root = folder / "c";
    prepare(root);
    const std::vector<Box> boxes = whole(state(2));
    const auto write_another = [&] {
      watch_system_calls(interruption, call + 1);
      writer(root, boxes);
    };
    if (interruption == Interruption::kKill) {
      interrupted = WIFSIGNALED(exit_status_of_child(write_another));
    } else {
      const std::string error = checkpoint_error(write_another);
      interrupted = static_cast<int>(watched_system_calls().size()) > call;
      EXPECT_EQ(interrupted, error.find("No space left on device") != std::string::npos) << error;
    }
    expect_whole(root);
    EXPECT_THAT(newest_tokens(root), interrupted ? AnyOf(1, 2) : AnyOf(2, 2)) << "call " << call;
    write(root, 100, 3);
    EXPECT_EQ(newest_tokens(root), 3);
    for (const std::string& name : names_in(root)) EXPECT_TRUE(name == "latest" || name.starts_with("step-")) << name;
  }
  EXPECT_GT(call, 15);
}

void one_before(const std::string& root) { write(root, 50, 1); }
void the_same(const std::string& root) { write(root, 100, 1); }
// What a job leaves that is killed between the two renames of a replacement.
void one_half_replaced(const std::string& root) { std::filesystem::rename(write(root, 50, 1), root + "/.step-00000050.replaced"); }

TEST(Publishing, KilledAtAnySystemCallLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kKill, one_before); }
TEST(Publishing, KilledWhileReplacingLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kKill, the_same); }
TEST(Publishing, KilledTwiceLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kKill, one_half_replaced); }
TEST(Publishing, FailingAtAnySystemCallLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kFail, one_before); }
TEST(Publishing, FailingWhileReplacingLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kFail, the_same); }

TEST(Publishing, KilledBesideTheTrainingLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kKill, one_before, beside); }
TEST(Publishing, FailingBesideTheTrainingLeavesAWholeCheckpoint) { interrupt_everywhere(Interruption::kFail, the_same, beside); }

TEST(CheckpointSave, WritesWhatTheBoxesHeldWhenItBegan) {
  const TemporaryFolder folder;
  const std::vector<Named> before = {{"w", random_bits({700, 1100}, DType::kFloat32, 1)}};
  const std::vector<Box> boxes = whole(before);
  CheckpointSave save(folder / "c", {.step = 100}, boxes, Group());
  std::memset(boxes[0].data.raw(), 0, static_cast<size_t>(boxes[0].data.bytes()));
  EXPECT_EQ(newest_checkpoint(folder / "c"), std::nullopt);
  expect_holds(save.finish(), before);
  EXPECT_TRUE(save.written());
}

TEST(CheckpointSave, ThatIsNotFinishedIsNoCheckpoint) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  { const CheckpointSave save(root, {.step = 100}, whole(state(1)), Group()); }
  EXPECT_EQ(newest_checkpoint(root), std::nullopt);
  write(root, 200, 2);
  EXPECT_THAT(names_in(root), ElementsAre("latest", "step-00000200"));
}

TEST(Publishing, FlushesEverythingBeforeItGetsItsName) {
  const TemporaryFolder folder;
  const std::string root = folder / "c", partial = root + "/.step-00000100.partial";
  watch_system_calls();
  write(root, 100, 1);
  const std::vector<std::string> calls = watched_system_calls();
  auto at = calls.begin();
  for (const std::string& call :
       {"fsync " + folder.path(), "write " + partial + "/shard-00000.safetensors", "fsync " + partial + "/shard-00000.safetensors",
        "write " + partial + "/manifest.pb", "fsync " + partial + "/manifest.pb", "fsync " + partial,
        "rename " + partial + " " + root + "/step-00000100", "fsync " + root, "write " + root + "/.latest.partial",
        "fsync " + root + "/.latest.partial", "rename " + root + "/.latest.partial " + root + "/latest", "fsync " + root}) {
    at = std::find(at, calls.end(), call);
    ASSERT_NE(at, calls.end()) << call;
  }
}

TEST(Publishing, KilledAtRandomInstantsLeavesAWholeCheckpoint) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  std::vector<std::vector<Box>> states;
  for (uint64_t seed = 1; seed <= 5; ++seed) states.push_back(whole(state(seed)));
  std::mt19937_64 random(1);
  write(root, 1, 1);
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      for (int64_t n = 0;; ++n) {  // new steps and old ones again
        write_checkpoint(root, {.step = 1 + n / 2 % 7, .tokens = 1 + n % 5}, states[n % 5], Group());
        retain_checkpoints(root, 2, 3);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    EXPECT_GE(newest_tokens(root), 1);
    expect_whole(root);
  }
}

TEST(NewestCheckpoint, IsWhatLatestNames) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  EXPECT_EQ(newest_checkpoint(root), std::nullopt);
  write(root, 300, 1);
  write(root, 100, 1);
  EXPECT_EQ(content_of(root + "/latest"), "step-00000100\n");
  EXPECT_EQ(newest_checkpoint(root), root + "/step-00000100");
}

TEST(NewestCheckpoint, WithoutLatestIsTheHighestCompleteStep) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  write(root, 123456789, 1);
  write(root, 20000000, 1);
  write(root, 100, 1);
  std::filesystem::remove(root + "/latest");
  std::filesystem::create_directories(root + "/step-223456789");
  std::filesystem::create_directories(root + "/step-others");
  EXPECT_EQ(newest_checkpoint(root), root + "/step-123456789");
}

TEST(NewestCheckpoint, RefusesALatestThatNamesNothing) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  write(root, 100, 1);
  write(root, 200, 1);
  std::filesystem::remove_all(root + "/step-00000200");
  EXPECT_EQ(checkpoint_error([&] { newest_checkpoint(root); }),
            root + "/latest: names step-00000200, which is missing or has no manifest.pb; " +
                "take an older checkpoint by run.resume=" + root + "/step-00000100");
  for (const std::string bad : {"", "step-00000100", "step-0000010\n", "step-000000100\n", "../step-00000100\n", "step-0000010x\n"}) {
    set_content(root + "/latest", bad);
    EXPECT_THAT(checkpoint_error([&] { newest_checkpoint(root); }), HasSubstr(root + "/latest: expected a line like step-00000100")) << bad;
  }
}

TEST(Retention, KeepsTheNewestAndTheMultiples) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  for (int64_t step = 1; step <= 8; ++step) write(root, 10 * step, 1);
  retain_checkpoints(root, 2, 30);
  EXPECT_THAT(names_in(root), ElementsAre("latest", "step-00000030", "step-00000060", "step-00000070", "step-00000080"));
  retain_checkpoints(root, 1, 0);
  EXPECT_THAT(names_in(root), ElementsAre("latest", "step-00000080"));
  retain_checkpoints(root, 0, 0);
  EXPECT_THAT(names_in(root), ElementsAre("latest", "step-00000080"));
  retain_checkpoints(folder / "nothing", 1, 0);
}

TEST(Retention, CountsFromWhatLatestNames) {
  const TemporaryFolder folder;
  const std::string root = folder / "c";
  for (const int64_t step : {10, 20, 30, 90, 40}) write(root, step, 1);
  retain_checkpoints(root, 2, 0);
  EXPECT_THAT(names_in(root), ElementsAre("latest", "step-00000030", "step-00000040", "step-00000090"));
}

}  // namespace
}  // namespace ropewalk::testing
