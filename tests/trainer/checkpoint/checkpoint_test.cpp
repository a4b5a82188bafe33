#include "tests/trainer/checkpoint/checkpoint_support.h"

namespace ropewalk::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

const std::vector<Named>& tensors_of_all_kinds() {
  static const std::vector<Named> tensors = {
      {"a.weight", random_bits({5, 7}, DType::kFloat32, 1)},      {"b.scalar", random_bits({1}, DType::kFloat64, 2)},
      {"c.conv", random_bits({3, 1, 4, 2}, DType::kBFloat16, 3)}, {"d.cursor", random_bits({2}, DType::kInt64, 4)},
      {"e.odd", random_bits({13}, DType::kBFloat16, 5)},          {"f.deep", random_bits({2, 3, 1, 2, 3, 2}, DType::kFloat64, 6)}};
  return tensors;
}

// One shard of three pieces: "m.large" lies in all of them, the small ones at either end.
const std::vector<Named>& tensors_of_several_pieces() {
  static const std::vector<Named> tensors = {{"a.first", random_bits({3, 5}, DType::kFloat64, 1)},
                                             {"m.large", random_bits({1100, 2000}, DType::kFloat32, 2)},
                                             {"z.last", random_bits({9}, DType::kBFloat16, 3)}};
  return tensors;
}

std::string write(const std::string& root, const std::vector<Box>& boxes, int64_t step = 100) {
  return write_checkpoint(root, {.step = step}, boxes, Group());
}

std::string write_cut(const std::string& root, const Named& t, const Shape& parts) { return write(root, cut(t, parts)); }

TEST(Checkpoint, GivesBackEveryBitOfEveryType) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole(tensors_of_all_kinds()));
  EXPECT_EQ(path, folder / "c/step-00000100");
  expect_holds(path, tensors_of_all_kinds());
  CheckpointReader(path + "/").verify();
  EXPECT_FALSE(CheckpointReader(path).has("a"));
}

TEST(Checkpoint, GivesBackItsMeta) {
  const TemporaryFolder folder;
  const CheckpointMeta meta{.step = 12,
                            .tokens = int64_t{1} << 40,
                            .config = "model: \"\xff\"\n",
                            .mesh = "data 2",
                            .version = "0.1",
                            .notes = {{"cursor", "17"}, {"empty", ""}}};
  const CheckpointReader reader(write_checkpoint(folder / "c", meta, whole(tensors_of_all_kinds()), Group()));
  EXPECT_EQ(reader.meta().step, meta.step);
  EXPECT_EQ(reader.meta().tokens, meta.tokens);
  EXPECT_EQ(reader.meta().config, meta.config);
  EXPECT_EQ(reader.meta().mesh, meta.mesh);
  EXPECT_EQ(reader.meta().version, meta.version);
  EXPECT_EQ(reader.meta().notes, meta.notes);
  ASSERT_EQ(reader.tensors().size(), tensors_of_all_kinds().size());
  EXPECT_EQ(reader.tensors()[2].name, "c.conv");
  EXPECT_EQ(reader.tensors()[2].shape, (Shape{3, 1, 4, 2}));
  EXPECT_EQ(reader.tensors()[2].dtype, DType::kBFloat16);
}

TEST(Checkpoint, ReadsOtherBoxesThanWereWritten) {
  const TemporaryFolder folder;
  const Named t{"w", random_bits({7, 6, 5}, DType::kFloat32, 8)};
  for (const Shape& written : {Shape{1, 1, 1}, Shape{3, 1, 1}, Shape{1, 4, 2}, Shape{2, 3, 5}}) {
    CheckpointReader reader(write_cut(folder / "c", t, written));
    EXPECT_EQ(reader.tensors()[0].boxes, written.numel());
    for (const Shape& wanted : {Shape{1, 1, 1}, Shape{4, 1, 1}, Shape{1, 5, 1}, Shape{7, 6, 5}, Shape{2, 2, 2}})
      for (const Box& expected : cut(t, wanted)) {
        const Box box{t.name, expected.global, expected.start, expected.extent, Tensor::zeros(expected.extent, DType::kFloat32)};
        reader.read(box);
        EXPECT_TRUE(same_bits(box.data, expected.data)) << written.to_string() << wanted.to_string();
      }
  }
}

TEST(Checkpoint, ReadsColumnsOfLargeTensors) {
  const TemporaryFolder folder;
  const Named& large = tensors_of_several_pieces()[1];
  CheckpointReader reader(write_cut(folder / "c", large, {2, 3}));
  for (const Box& expected : cut(large, {1, 7})) {
    const Box box{large.name, expected.global, expected.start, expected.extent, Tensor::zeros(expected.extent, DType::kFloat32)};
    reader.read(box);
    EXPECT_TRUE(same_bits(box.data, expected.data));
  }
}

TEST(Checkpoint, LeavesOutBoxesWithoutElements) {
  const TemporaryFolder folder;
  const Named t{"w", random_bits({2, 3}, DType::kFloat32, 8)};
  EXPECT_EQ(CheckpointReader(write_cut(folder / "c", t, {4, 1})).tensors()[0].boxes, 2);
}

TEST(Digest, DoesNotDependOnTheCut) {
  const TemporaryFolder folder;
  const std::vector<Named> tensors = {{"w", random_bits({1100, 4200}, DType::kFloat32, 8)}, {"x", random_bits({9}, DType::kFloat64, 9)}};
  const std::string expected = digest_of(write(folder / "c", whole(tensors)));
  EXPECT_EQ(expected.size(), 32u);
  for (const Shape& parts : {Shape{3, 1}, Shape{1, 2}, Shape{5, 7}}) {
    std::vector<Box> boxes = cut(tensors[0], parts);
    for (const Box& box : cut(tensors[1], {2})) boxes.push_back(box);
    std::reverse(boxes.begin(), boxes.end());
    EXPECT_EQ(digest_of(write(folder / "c", boxes)), expected) << parts.to_string();
  }
}

TEST(Digest, TellsElementsNamesShapesAndTypesApart) {
  const TemporaryFolder folder;
  const Tensor value = random_bits({4, 6}, DType::kFloat32, 8);
  const auto digest = [&](const std::vector<Named>& tensors) { return digest_of(write(folder / "c", whole(tensors))); };
  const std::string original = digest({{"w", value}, {"x", value}});
  const Tensor other = value.contiguous_copy();
  static_cast<char*>(other.raw())[95] ^= 1;
  EXPECT_NE(digest({{"w", value}, {"x", other}}), original);
  EXPECT_NE(digest({{"w", value}, {"y", value}}), original);
  EXPECT_NE(digest({{"w", value}, {"x", value.reshape({6, 4})}}), original);
  EXPECT_NE(digest({{"w", value}}), original);
  const Tensor zeros32 = Tensor::zeros({4}, DType::kFloat32), zeros64 = Tensor::zeros({4}, DType::kInt64);
  EXPECT_NE(digest({{"w", zeros32}}), digest({{"w", zeros64}}));
  EXPECT_NE(digest({{"w", Tensor::zeros({4}, DType::kFloat64)}}), digest({{"w", zeros64}}));
}

TEST(Digest, TakesThePrefixOnly) {
  const TemporaryFolder folder;
  const Tensor value = random_bits({4}, DType::kFloat32, 8);
  const std::string both = write(folder / "a", whole({{"model.w", value}, {"optimizer.w", value}}));
  const std::string one = write(folder / "b", whole({{"model.w", value}}));
  EXPECT_EQ(digest_of(both, "model."), digest_of(one));
  EXPECT_NE(digest_of(both, "optimizer."), digest_of(one));
}

TEST(Writing, RefusesAGapAndAnOverlap) {
  const TemporaryFolder folder;
  const Named t{"w", random_bits({4, 6}, DType::kFloat32, 8)};
  const Box top = box_of(t, {0, 0}, {2, 6}), left = box_of(t, {2, 0}, {2, 3}), right = box_of(t, {2, 3}, {2, 3});
  const Box wide = box_of(t, {2, 2}, {2, 4}), corner = box_of(t, {3, 5}, {1, 1});
  const auto refusal = [&](const std::vector<Box>& boxes) { return checkpoint_error([&] { write(folder / "c", boxes); }); };
  EXPECT_THAT(refusal({top, left}), HasSubstr("tensor w [4, 6]: expected every element in one box, found 18 of 24 elements in 2 boxes"));
  EXPECT_THAT(refusal({top, left, wide}), HasSubstr("[2:4, 0:3] of shard-00000.safetensors and [2:4, 2:6] of shard-00000.safetensors"));
  EXPECT_THAT(refusal({corner, right, top}), HasSubstr("overlap"));  // as many elements as without the gap
  EXPECT_TRUE(names_in(folder / "c").empty());
  EXPECT_EQ(refusal({right, top, left}), "");
}

TEST(Writing, RefusesBoxesThatDoNotFit) {
  const TemporaryFolder folder;
  const Named t{"w", random_bits({4, 6}, DType::kFloat32, 8)}, other{"w", random_bits({4, 5}, DType::kFloat32, 8)};
  const Box box = whole({t})[0];
  EXPECT_THAT(checkpoint_error([&] {
                write(folder / "c", {box_of(t, {0, 0}, {2, 6}), box_of(other, {2, 0}, {2, 5})});
              }),
              HasSubstr("tensor w: expected the same dtype and shape"));
  EXPECT_THROW(write(folder / "c", {{"w", {4, 6}, {1, 0}, {4, 6}, box.data}}), ShapeError);
  EXPECT_THROW(write(folder / "c", {{"w", {4, 6}, {0, 0}, {4, 5}, box.data}}), ShapeError);
  EXPECT_THROW(write(folder / "c", {{"w", {4, 6}, {0, 0}, {2, 6}, box.data.narrow(1, 0, 3)}}), ShapeError);
  EXPECT_THROW(write(folder / "c", {{"w", {4, 6}, {0, 0}, {4, 6}, {}}}), ShapeError);
  EXPECT_THROW(write(folder / "c", {{"w", {4}, {0}, {4}, Tensor::zeros({4}, DType::kUInt8)}}), ShapeError);
  EXPECT_THROW(write(folder / "c", {{"", {4, 6}, {0, 0}, {4, 6}, box.data}}), ShapeError);
  EXPECT_THAT(checkpoint_error([&] { write(folder / "c", {{"\xff", {4, 6}, {0, 0}, {4, 6}, box.data}}); }), HasSubstr("UTF-8"));
  EXPECT_TRUE(names_in(folder / "c").empty());
}

TEST(Reading, NamesTheTensorThatDoesNotFit) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole({{"w", random_bits({4, 6}, DType::kFloat32, 8)}}));
  CheckpointReader reader(path);
  const auto refusal = [&](const std::string& name, const Tensor& into) {
    return checkpoint_error([&] { reader.read({name, into.shape(), {0, 0}, into.shape(), into}); });
  };
  EXPECT_EQ(refusal("v", Tensor::zeros({4, 6}, DType::kFloat32)),
            path + ": tensor v: expected fp32 [4, 6], found none of that name; name a checkpoint of this model by run.resume=PATH");
  EXPECT_THAT(refusal("w", Tensor::zeros({4, 5}, DType::kFloat32)), HasSubstr("tensor w: expected fp32 [4, 5], found fp32 [4, 6]"));
  EXPECT_THAT(refusal("w", Tensor::zeros({4, 6}, DType::kFloat64)), HasSubstr("tensor w: expected fp64 [4, 6], found fp32 [4, 6]"));
}

// Every way to read a checkpoint refuses it, with a message that says `what`.
void expect_refused(const std::string& folder, const ::testing::Matcher<std::string>& what) {
  EXPECT_THAT(checkpoint_error([&] { CheckpointReader(folder).verify(); }), what);
  EXPECT_THAT(checkpoint_error([&] { read_everything(folder); }), what);
  EXPECT_THAT(checkpoint_error([&] { digest_of(folder); }), what);
}

TEST(Damage, OfAnyByteIsFoundAndNamed) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole(tensors_of_several_pieces()));
  std::mt19937_64 random(11);
  for (int i = 0; i < 50; ++i) {
    const std::string name = i % 2 == 0 ? "manifest.pb" : "shard-00000.safetensors", file = path + "/" + name;
    const std::string good = content_of(file);
    std::string bad = good;
    bad[random() % bad.size()] ^= static_cast<char>(1 << random() % 8);
    set_content(file, bad);
    const auto tensor = AnyOf(HasSubstr("manifest"), HasSubstr("hold the header and tensor a.first and 1 more;"),
                              HasSubstr("hold tensor m.large;"), HasSubstr("hold tensor m.large and 1 more;"));
    expect_refused(path, AllOf(HasSubstr(file), tensor, HasSubstr("run.resume=PATH")));
    set_content(file, good);
  }
  CheckpointReader(path).verify();
}

TEST(Damage, IsNamedWithPieceAndTensorsAndTheWayOut) {
  const TemporaryFolder folder;
  write(folder / "c", whole(tensors_of_all_kinds()), 50);
  const std::string path = write(folder / "c", whole(tensors_of_several_pieces())), file = path + "/shard-00000.safetensors";
  std::string bytes = content_of(file);
  bytes[2 * kPieceBytes] ^= 4;
  set_content(file, bytes);
  expect_refused(path, ::testing::MatchesRegex(file + ": checksum of piece 2: expected [0-9a-f]+, found [0-9a-f]+; bytes 8388608 to " +
                                               std::to_string(bytes.size()) + " hold tensor m.large and 1 more; " +
                                               "take an older checkpoint by run.resume=" + folder / "c/step-00000050"));
}

TEST(Damage, IsFoundByVerifyAlsoWhereItWasReadBefore) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole(tensors_of_all_kinds())), file = path + "/shard-00000.safetensors";
  CheckpointReader reader(path);
  reader.verify();
  std::string bytes = content_of(file);
  bytes.back() ^= 1;
  set_content(file, bytes);
  EXPECT_THAT(checkpoint_error([&] { reader.verify(); }), HasSubstr(file));
}

TEST(Damage, OfOneTensorLeavesTheOthersReadable) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole(tensors_of_several_pieces())), file = path + "/shard-00000.safetensors";
  std::string bytes = content_of(file);
  bytes[2 * kPieceBytes] ^= 4;
  set_content(file, bytes);
  CheckpointReader reader(path);
  EXPECT_TRUE(same_bits(read_whole(reader, reader.tensors()[0]), tensors_of_several_pieces()[0].value));
  EXPECT_NE(checkpoint_error([&] { read_whole(reader, reader.tensors()[2]); }), "");
}

TEST(Damage, CutAndGrownAndMissingFilesAreNamed) {
  const TemporaryFolder folder;
  const std::string path = write(folder / "c", whole(tensors_of_several_pieces()));
  for (const std::string& name : names_in(path)) {
    const std::string file = path + "/" + name, good = content_of(file);
    for (const std::string& bad :
         {std::string(), good.substr(0, 10), good.substr(0, good.size() / 2), good.substr(0, good.size() - 1), good + '\0', good + good}) {
      set_content(file, bad);
      expect_refused(path, HasSubstr(file + ": "));
    }
    std::filesystem::remove(file);
    expect_refused(path, HasSubstr(file + ": cannot open: No such file or directory; "));
    set_content(file, good);
  }
  CheckpointReader(path).verify();
}

void reseal(const std::string& file, const std::string& payload) {
  const uint64_t sum = checksum(payload);
  std::string content = content_of(file).substr(0, 8);
  content.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  set_content(file, content + payload);
}

TEST(Damage, OfAResealedManifestNeverCrashes) {
  const TemporaryFolder folder;
  std::vector<Box> boxes = whole(tensors_of_all_kinds());
  for (const Box& box : cut({"w", random_bits({4, 6}, DType::kFloat32, 8)}, {2, 3})) boxes.push_back(box);
  const std::string path = write(folder / "c", boxes), file = path + "/manifest.pb";
  const std::string good = content_of(file).substr(16);
  std::mt19937_64 random(12);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (int k = 0; k < 1 + i % 3; ++k) bad[random() % bad.size()] = static_cast<char>(random());
    if (i % 5 == 0) bad.resize(random() % bad.size());
    reseal(file, bad);
    refused += !checkpoint_error([&] {
                  CheckpointReader reader(path);
                  for (const auto& info : reader.tensors())
                    if (info.shape.numel() < 10000) read_whole(reader, info);
                  reader.verify();
                }).empty();
  }
  EXPECT_GT(refused, 1500);
}

TEST(Damage, OfAManifestThatDisagreesWithAShardIsFound) {
  const TemporaryFolder folder;
  const std::string path =
      write(folder / "c", whole({{"v.one", random_bits({4}, DType::kFloat32, 8)}, {"w", random_bits({4}, DType::kFloat32, 9)}}));
  std::string payload = content_of(path + "/manifest.pb").substr(16);
  payload.replace(payload.find("v.one"), 5, "v.two");
  reseal(path + "/manifest.pb", payload);
  EXPECT_THAT(checkpoint_error([&] { CheckpointReader(path).verify(); }),
              HasSubstr("shard-00000.safetensors: header: expected v.two (manifest), found v.one"));
}

}  // namespace
}  // namespace ropewalk::testing
