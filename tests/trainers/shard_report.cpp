// What validation prints and counts.

#include "trainers/shard_report.h"

#include <catch2/catch.hpp>

#include "engine/files.h"
#include "tests/support/omni_shard.h"
#include "tests/support/temporary_folder.h"
#include "trainers/shards.h"

namespace omni {
namespace {

TEST_CASE("validation counts what is sound and names all that is not, across broken shards") {
  TemporaryFolder folder;
  ShardFiles bad = small_sample("bad", 1), recorded = small_sample("recorded", 1);
  bad[0].second = "{";
  bad[1].second = "x";
  recorded.emplace_back("recorded.question.0.mp3", "ID3\4");
  recorded.emplace_back("recorded.image.jpg", "\xff\xd8\xff\xe0");
  write_text_file(folder / "a.tar", shard_of({full_sample("full", 4), bad}));
  write_text_file(folder / "b.tar", "garbage");
  write_text_file(folder / "c.tar", shard_of({recorded}));
  std::string problems;
  std::vector<std::uint64_t> progress;
  const ShardReport report = report_shards(list_shards({folder.path()}), {},
                                           {.problem = [&](const std::string& text) { problems += text + "\n"; },
                                            .progress = [&](std::uint64_t done) { progress.push_back(done); }});
  const std::string path = folder.path().string();
  CHECK(problems ==
        "error: " + path + "/a.tar: bad: json: not valid JSON: " +
            problems.substr(problems.find("JSON: ") + 6, problems.find('\n') - problems.find("JSON: ") - 6) +
            "\nerror: " + path +
            "/a.tar: bad: answer.0.npy: expected a .npy file, which begins with \\x93NUMPY, found 1 bytes\n"
            "error: " +
            path + "/b.tar: at byte 0, not a sound tar archive: Unrecognized archive format\n" + "warning: " + path +
            "/c.tar: recorded: json: conversations: expected <image> for the picture, found none\n");
  CHECK(report.shards == 3);
  CHECK(report.samples == 3);
  CHECK(report.bad_samples == 1);
  CHECK(report.errors == 3);
  CHECK(report.warnings == 1);
  CHECK(report.turns == 6);
  CHECK(report.spoken_answers == 3);
  CHECK(report.answer_frames == 9 + 3 + 2);
  CHECK(report.encoded_questions == 1);
  CHECK(report.recorded_questions == 1);
  CHECK(report.speakers == 1);
  CHECK(report.references == 1);
  CHECK(report.encoded_pictures == 1);
  CHECK(report.plain_pictures == 1);
  CHECK(std::is_sorted(progress.begin(), progress.end()));
  CHECK(progress.back() == report.bytes);
  CHECK_THAT(report.text(), Catch::Contains("1 with states, 1 as a recording alone"));
}

}  // namespace
}  // namespace omni
