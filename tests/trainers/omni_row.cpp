// What one sample of a shard must look like, field by field.

#include "trainers/omni_row.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "tests/support/omni_shard.h"
#include "trainers/samples.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;

std::vector<ShardMember> members_of(const ShardFiles& files) {
  std::vector<ShardMember> out;
  for (const auto& [path, bytes] : files) out.push_back({path.substr(path.find('.') + 1), bytes});
  return out;
}

// The full sample with one member replaced, or added.
std::vector<ShardMember> with(const std::string& name, const std::string& bytes) {
  std::vector<ShardMember> members = members_of(full_sample("k", 1));
  for (ShardMember& member : members)
    if (member.name == name) {
      member.bytes = bytes;
      return members;
    }
  members.push_back({name, bytes});
  return members;
}

std::string conversations(const std::string& list) { return "{\"conversations\": " + list + "}"; }

const std::string kTurn = R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])";

// The sample has exactly this error, which training throws and validation reports.
void check_error(const std::vector<ShardMember>& members, const std::string& text) {
  INFO(text);
  CHECK_THROWS_AS(parse_omni_row(members, {}), BadSample);
  CHECK_THROWS_WITH(parse_omni_row(members, {}), Contains(text));
  OmniRowProblems problems;
  check_omni_row(members, {}, problems);
  REQUIRE(problems.errors.size() == 1);
  CHECK_THAT(problems.errors[0], Contains(text));
}

TEST_CASE("a full sample has no problems") {
  OmniRowProblems problems;
  const OmniRow row = check_omni_row(members_of(full_sample("k", 1)), {}, problems);
  CHECK(problems.errors.empty());
  CHECK(problems.warnings.empty());
  CHECK(row.answer_codes.size() == 2);
  CHECK(row.questions.size() == 2);
}

TEST_CASE("conversations may be a list or its JSON text") {
  const std::string text = nlohmann::json(kTurn).dump();
  for (const std::string& list : {kTurn, text}) {
    const OmniRow row = parse_omni_row(std::vector<ShardMember>{{"json", conversations(list)}}, {});
    REQUIRE(row.messages.size() == 2);
    CHECK(row.messages[1]["content"] == "a");
    CHECK(row.answer_codes.empty());
  }
  // Only role and content go on to the chat template.
  const OmniRow row = parse_omni_row(
      std::vector<ShardMember>{
          {"json", conversations(R"([{"content": "a", "role": "assistant", "reasoning_content": "r"}])")}},
      {});
  CHECK(row.messages.dump() == R"([{"role":"assistant","content":"a"}])");
}

TEST_CASE("every error of the conversations is named") {
  const auto fails = [](const std::string& json, const std::string& text) {
    check_error(std::vector<ShardMember>{{"json", json}}, text);
  };
  check_error({}, "json: expected this member, found none");
  fails("", "json: not valid JSON");
  fails("{\"conversations\": [}", "json: not valid JSON");
  fails("{\"conversations\": \"\xff\"}", "json: not valid JSON");
  fails("[]", "json: expected an object");
  fails("{}", "json: conversations: expected a list, found nothing");
  fails(conversations("7"), "json: conversations: expected a list, found 7");
  fails(conversations("\"[\""), "json: conversations: not valid JSON");
  fails(conversations("[]"), "expected a turn of the assistant, found an empty list");
  fails(conversations(R"([{"role": "user", "content": "q"}])"),
        "expected a turn of the assistant, found none in 1 turns");
  fails(conversations("[1]"), "json: conversations[0]: expected an object with role and content, found 1");
  const std::string good = R"({"role": "assistant", "content": "a"})";
  fails(conversations("[" + good + R"(, {"content": "x"}])"), "conversations[1].role: expected a text, found nothing");
  fails(conversations("[" + good + R"(, {"role": "user"}])"),
        "conversations[1].content: expected a text, found nothing");
  fails(conversations("[" + good + R"(, {"role": "user", "content": null}])"), "expected a text, found null");
  fails(conversations("[" + good + R"(, {"role": "User", "content": "x"}])"), "assistant or tool, found \"User\"");
}

TEST_CASE("every error of codes is named") {
  check_error(with("answer.0.npy", "x"), "answer.0.npy: expected a .npy file");
  check_error(with("answer.1.npy", npy_file(some_codes(3, 0), {24})),
              "expected integer codes [frames, 8], found int64 [24]");
  check_error(with("answer.1.npy", npy_file(some_codes(3, 0), {4, 6})), "found int64 [4, 6]");
  check_error(with("reference.npy", npy_file(some_floats(24, 0), {3, 8})), "reference.npy: expected integer codes");
  std::vector<std::int64_t> codes = some_codes(3, 0);
  codes[13] = 2048;
  check_error(with("reference.npy", npy_file(codes, {3, 8})), "expected codes from 0 to 2047, found 2048 at [1, 5]");
  codes[20] = -1;
  check_error(with("answer.0.npy", npy_file(codes, {3, 8})), "found 2048 at [1, 5] and 1 more");
  check_error(with("answer.2.npy", codes_file(3, 0)), "answer.2.npy: expected a turn below 2, found turn 2");
  CHECK(parse_omni_row(with("answer.0.npy", npy_file(std::vector<std::int64_t>(), {0, 8})), {})
            .answer_codes.at(0)
            .empty());
  OmniRowLimits limits;
  limits.codes = 10;
  CHECK_THROWS_WITH(parse_omni_row(members_of(small_sample("k", 0)), limits), Contains("expected codes from 0 to 9"));
}

TEST_CASE("every error of states is named") {
  check_error(with("speaker.npy", npy_file(some_floats(191, 0), {191})),
              "speaker.npy: expected floats [192], found float32 [191]");
  check_error(with("speaker.npy", npy_file(some_codes(24, 0), {192})), "expected floats [192], found int64 [192]");
  check_error(with("question.1.npy", npy_file(some_floats(1024, 0), {1024})),
              "expected floats [0, 512], found float32 [1024]");
  check_error(with("question.1.npy", npy_file(some_floats(513, 0), {1, 513})), "expected floats [1, 512]");
  check_error(with("question.2.npy", npy_file(some_floats(512, 0), {1, 512})),
              "question.2.npy: expected a turn below 2");
  check_error(with("image.npy", npy_file(some_floats(768, 0), {1, 768})), "image.npy: expected floats [64, 768]");
  for (const float wrong : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> values = some_floats(1024, 0);
    values[514] = wrong;
    check_error(with("question.0.npy", npy_file(values, {2, 512})), "question.0.npy: expected finite numbers, found ");
    check_error(with("question.0.npy", npy_file(values, {2, 512})), " at [1, 2]");
  }
}

TEST_CASE("training ignores what validation reports") {
  const auto reports = [](const std::vector<ShardMember>& members, const std::string& text) {
    INFO(text);
    CHECK(parse_omni_row(members, {}).messages.size() == 4);
    OmniRowProblems problems;
    check_omni_row(members, {}, problems);
    REQUIRE(problems.errors.size() == 1);
    CHECK_THAT(problems.errors[0], Contains(text));
  };
  for (const char* name : {"txt", "answer.npy", "answer.00.npy", "answer.-1.npy", "answer.0.npz", "question.0.aac",
                           "image.gif", "speaker", "json.x", "answer.99999999999.npy", ""})
    reports(with(name, "x"), std::string(name) + ": expected a member of a sample, found an unknown name");
  reports(with("question.1.wav", "RIFF....AVI "),
          "question.1.wav: expected a file of this kind, found bytes 52 49 46 46");
  reports(with("question.1.wav", ""), "found nothing");
  reports(with("question.0.mp3", "xx"), "found bytes 78 78");
  reports(with("question.0.flac", "OggS"), "question.0.flac");
  reports(with("image.png", "\xff\xd8\xff"), "image.png: expected a file of this kind");
  reports(with("question.1.ogg", "OggS"), "question.1.ogg: expected one recording of a turn, found another");
  reports(with("image.jpeg", "\xff\xd8\xff\xe0"), "image.jpeg: expected one picture, found image.png as well");
  OmniRowProblems none;
  check_omni_row(with("question.0.mp3", "\xff\xfb\x90"), {}, none);
  check_omni_row(with("question.0.mp3", "ID3\4"), {}, none);
  check_omni_row(with("question.0.flac", "fLaC\1"), {}, none);
  CHECK(none.errors.empty());
}

TEST_CASE("a picture and its marker belong together, or there is a warning") {
  OmniRowProblems problems;
  check_omni_row(with("json", conversations(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
      {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])")),
                 {}, problems);
  CHECK(problems.errors.empty());
  REQUIRE(problems.warnings.size() == 1);
  CHECK_THAT(problems.warnings[0], Contains("expected <image> for the picture"));
  OmniRowProblems other;
  check_omni_row(std::vector<ShardMember>{{"json", conversations(R"([{"role": "user", "content": "<image>"},
      {"role": "assistant", "content": "a"}])")}},
                 {}, other);
  CHECK(other.errors.empty());
  REQUIRE(other.warnings.size() == 1);
  CHECK_THAT(other.warnings[0], Contains("expected a picture for <image>"));
}

TEST_CASE("validation finds all errors of a sample, training stops at the first") {
  std::vector<ShardMember> members = with("json", conversations(R"([{"role": 1, "content": "q"}, 2,
      {"role": "assistant", "content": "a"}])"));
  members[1].bytes = "x";
  members.push_back({"strange", ""});
  OmniRowProblems problems;
  check_omni_row(members, {}, problems);
  std::string all;
  for (const std::string& error : problems.errors) all += error + "\n";
  CHECK(all ==
        "json: conversations[0].role: expected a text, found 1\n"
        "json: conversations[1]: expected an object with role and content, found 2\n"
        "answer.0.npy: expected a .npy file, which begins with \\x93NUMPY, found 1 bytes\n"
        "strange: expected a member of a sample, found an unknown name\n");
  CHECK_THROWS_WITH(parse_omni_row(members, {}), "json: conversations[0].role: expected a text, found 1");
}

}  // namespace
}  // namespace omni
