// Dataset, order, batches, loader, schedule.

#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "engine/safetensors.h"
#include "tests/trainers/small_run.h"
#include "trainers/batches.h"
#include "trainers/loader.h"
#include "trainers/schedule.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("a dataset indexes samples and counts all else") {
  TemporaryFolder folder;
  const auto path = folder / "a.jsonl";
  write_text_file(path,
                  "{\"text\": \"one\"}\nbroken\n{\"text\": []}\r\n\n{\"text\": \"\xc3\"}\n  {\"text\": \"two\"}  "
                  "\r\n{\"text\": \"three\"}");
  const Dataset dataset(Stage::pretrain, {path, path}, 3);
  REQUIRE(dataset.size() == 6);
  CHECK(parse_pretrain(dataset.line(1)) == "two");
  CHECK(parse_pretrain(dataset.line(5)) == "three");
  CHECK(dataset.place(1) == path.string() + ":6");
  REQUIRE(dataset.skipped().size() == 4);
  CHECK(dataset.skipped()[0].kind == "not valid JSON");
  CHECK(dataset.skipped()[0].count == 2);
  CHECK_THAT(dataset.skipped()[0].examples.at(0), Contains(path.string() + ":2: "));
  CHECK_THROWS_WITH(Dataset(Stage::sft, {path}, 1), Contains("no sample of the stage sft"));
  write_text_file(path, "");
  CHECK_THROWS_WITH(Dataset(Stage::pretrain, {path}, 1), Contains(path.string()));
  CHECK_THROWS_WITH(Dataset(Stage::pretrain, {folder / "missing"}, 1), Contains("missing"));
  CHECK_THROWS_WITH(Dataset(Stage::pretrain, {folder.path()}, 1), Contains(folder.path().string()));
}

TEST_CASE("lines across and larger than the chunks of the index are found, whatever the threads") {
  TemporaryFolder folder;
  const auto path = folder / "large.jsonl";
  std::string text;
  std::vector<std::size_t> sizes;
  Philox random(3, RandomStream::test);
  while (text.size() < (20u << 20)) {
    const std::size_t size = random.below(8) == 0 ? (9u << 20) + random.below(1000) : random.below(3u << 20);
    sizes.push_back(size);
    text += "{\"text\": \"" + std::string(size, 'x') + "\"}\n";
  }
  write_text_file(path, text);
  const Dataset one(Stage::pretrain, {path}, 1), many(Stage::pretrain, {path}, 4);
  REQUIRE(one.size() == static_cast<std::int64_t>(sizes.size()));
  REQUIRE(many.size() == one.size());
  CHECK(one.skipped().empty());
  CHECK(many.fingerprint() == one.fingerprint());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i);
    REQUIRE(one.line(row).size() == sizes[i] + 12);
    REQUIRE(many.place(row) == path.string() + ":" + std::to_string(i + 1));
  }
}

TEST_CASE("a line beyond the limit is skipped and its neighbours are kept") {
  TemporaryFolder folder;
  const auto path = folder / "long.jsonl";
  write_text_file(
      path, "{\"text\": \"a\"}\n{\"text\": \"" + std::string(Dataset::kLongestLine, 'x') + "\"}\n{\"text\": \"b\"}\n");
  const Dataset dataset(Stage::pretrain, {path}, 2);
  REQUIRE(dataset.size() == 2);
  CHECK(parse_pretrain(dataset.line(1)) == "b");
  REQUIRE(dataset.skipped().size() == 1);
  CHECK(dataset.skipped()[0].count == 1);
}

TEST_CASE("every epoch is another permutation") {
  const auto first = permutation(1000, 42, 0), second = permutation(1000, 42, 1);
  CHECK(first != second);
  CHECK(first == permutation(1000, 42, 0));
  CHECK(std::set(first.begin(), first.end()).size() == 1000);
  CHECK(*std::max_element(second.begin(), second.end()) == 999);
  CHECK(permutation(1, 42, 0) == std::vector<std::uint32_t>{0});
  CHECK(permutation(0, 42, 0).empty());
}

std::vector<std::int64_t> ids_of(const Batch& batch) {
  const View view = batch.input_ids;
  return {view.as<std::int64_t>(), view.as<std::int64_t>() + view.count()};
}

TEST_CASE("the loader delivers the same batches with any number of workers, from any position") {
  const SmallRun small;
  const Recipe recipe = small.recipe("out", {"stage=sft", "data=" + (small.folder / "sft.jsonl").string()});
  const auto dataset = std::make_shared<const Dataset>(recipe.stage, recipe.data, 1);
  const auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::load(recipe.tokenizer));
  const TextBatches source(dataset, tokenizer, recipe);
  REQUIRE(source.micro_batches_per_epoch() == 6);
  std::vector<std::vector<std::int64_t>> expected;
  for (std::int64_t position = 0; position < 14; ++position) expected.push_back(ids_of(source.batch(position)));
  CHECK(expected[5].size() == 3 * 48);  // what is left of 23 samples
  CHECK(expected[0] != expected[6]);
  for (const int workers : {0, 1, 4}) {
    for (const std::int64_t first : {0, 5}) {
      Loader loader(source, first, 14, workers);
      for (std::int64_t position = first; position < 14; ++position) {
        const Batch batch = loader.next();
        REQUIRE(batch.position == position);
        REQUIRE(ids_of(batch) == expected[static_cast<std::size_t>(position)]);
      }
      CHECK_THROWS_AS(loader.next(), std::logic_error);
    }
  }
}

TEST_CASE("an error of a worker reaches the caller, and a loader may be left early") {
  const SmallRun small;
  const Recipe recipe = small.recipe("out");
  const auto dataset = std::make_shared<const Dataset>(recipe.stage, recipe.data, 1);
  const auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::load(recipe.tokenizer));
  const TextBatches source(dataset, tokenizer, recipe);
  { Loader unused(source, 0, 1000, 3); }
  std::filesystem::resize_file(recipe.data[0], 10);
  Loader loader(source, 0, 6, 2);
  CHECK_THROWS_WITH(
      [&] {
        for (int i = 0; i < 6; ++i) loader.next();
      }(),
      Contains("shrunk"));
}

TEST_CASE("batches count tokens, predictions and pairs without padding") {
  Batch batch;
  batch.input_ids = OwnedTensor(DType::i64, {2, 4});
  batch.labels = OwnedTensor(DType::i64, {2, 4});
  const std::vector<std::int64_t> ids = {1, 5, 0, 2, 1, 6, 0, 0}, labels = {1, 5, -100, 2, -100, 6, -100, -100};
  std::copy(ids.begin(), ids.end(), batch.input_ids.as<std::int64_t>());
  std::copy(labels.begin(), labels.end(), batch.labels.as<std::int64_t>());
  count_tokens(batch, 0);
  CHECK(batch.tokens == 6);
  CHECK(batch.predictions() == 3);
  CHECK(batch.attention_pairs == 10 + 3);
}

TEST_CASE("replayed batches are checked") {
  TemporaryFolder folder;
  const auto path = folder / "replay.safetensors";
  std::vector<std::int64_t> ids(2 * 3 * 4, 7), labels(2 * 3 * 4, -100);
  ids[12] = 9;
  const auto write = [&](const Shape& shape) {
    write_safetensors(path, std::vector<NamedView>{{"input_ids", view_of(ids.data(), {2, 3, 4})},
                                                   {"labels", view_of(labels.data(), shape)}});
  };
  write({2, 3, 4});
  const ReplayBatches source(path, 10);
  CHECK(source.micro_batches_per_epoch() == 2);
  CHECK(ids_of(source.batch(3))[0] == 9);
  CHECK(ids_of(source.batch(4))[0] == 7);
  CHECK_THROWS_WITH(ReplayBatches(path, 9), Contains("input_ids: element 12") && Contains("found 9"));
  labels[1] = -1;
  write({2, 3, 4});
  CHECK_THROWS_WITH(ReplayBatches(path, 10), Contains("labels: element 1"));
  write({2, 4, 3});
  CHECK_THROWS_WITH(ReplayBatches(path, 10), Contains("labels: expected [2, 3, 4]"));
  write({24});
  CHECK_THROWS_WITH(ReplayBatches(path, 10), Contains("labels: expected i64 [N, batch, length]"));
}

TEST_CASE("the learning rate has the golden values of the original") {
  const Schedule schedule = Schedule::make(100, 1, 100, 0);
  const auto rate = [&](std::int64_t step) { return schedule.learning_rate(5e-4, step); };
  CHECK(rate(1) == Approx(4.99888976e-4).epsilon(1e-8));
  CHECK(rate(25) == Approx(4.34099026e-4).epsilon(1e-8));
  CHECK(rate(50) == Approx(2.75e-4).epsilon(1e-12));
  CHECK(rate(75) == Approx(1.15900974e-4).epsilon(1e-8));
  CHECK(rate(100) == Approx(5e-5).epsilon(1e-12));
}

TEST_CASE("steps end with the epoch") {
  const Schedule schedule = Schedule::make(10, 4, 0, 2);  // 4 + 4 + 2 micro-batches, twice
  CHECK(schedule.steps == 6);
  CHECK(schedule.micro_batches == 20);
  CHECK(schedule.micro_batches_of(3).first == 8);
  CHECK(schedule.micro_batches_of(3).end == 10);
  CHECK(schedule.micro_batches_of(4).first == 10);
  CHECK(schedule.micro_batches_of(6).end == 20);
  CHECK(Schedule::make(10, 4, 4, 0).micro_batches == 14);
  CHECK(Schedule::make(3, 8, 5, 0).micro_batches == 15);
  CHECK(schedule.learning_rate(1, 6) == Approx(0.1));
}

}  // namespace
}  // namespace omni
