#include "trainers/shard_report.h"

#include <cstdio>
#include <stdexcept>

#include "models/talker.h"
#include "trainers/metrics.h"
#include "trainers/shards.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHead = 16;  // bytes of a recording that tell its kind

// Whether a sample that has no errors has a recording for a turn without states.
bool is_recording_alone(const ShardMember& member, const OmniRow& row) {
  if (!member.name.starts_with("question.") || is_read_by_omni_row(member.name)) return false;
  const std::size_t turn = std::stoul(member.name.substr(9));
  return turn >= row.questions.size() || row.questions[turn].rows == 0;
}

void count(ShardReport& report, const std::vector<ShardMember>& members, const OmniRow& row) {
  report.turns += static_cast<std::int64_t>(row.messages.size());
  for (const std::vector<std::int64_t>& codes : row.answer_codes) {
    report.spoken_answers += !codes.empty();
    report.answer_frames += static_cast<std::int64_t>(codes.size() / kCodebooks);
  }
  for (const OmniRow::States& question : row.questions) report.encoded_questions += question.rows > 0;
  report.speakers += !row.speaker.empty();
  report.references += !row.reference_codes.empty();
  report.encoded_pictures += row.image.rows > 0;
  for (const ShardMember& member : members) {
    report.recorded_questions += is_recording_alone(member, row);
    report.plain_pictures += row.image.rows == 0 && member.name.starts_with("image.");
  }
}

class Reporter {
 public:
  Reporter(const OmniRowLimits& limits, const ShardReportEvents& events) : limits_(limits), events_(events) {}

  void read(const fs::path& path) {
    const std::uint64_t before = report.bytes;
    ++report.shards;
    try {
      report.bytes += fs::file_size(path);
      const ShardSet shard({path}, limits_);
      for (std::int64_t i = 0; i < shard.size(); ++i) {
        try {
          read_sample(shard, i);
        } catch (const std::runtime_error& error) {
          ++report.bad_samples;
          problem("error: ", error.what(), report.errors);
        }
        // Samples are about equally long.
        events_.progress(before +
                         static_cast<std::uint64_t>(static_cast<double>(shard.bytes()) * static_cast<double>(i + 1) /
                                                    static_cast<double>(shard.size())));
      }
    } catch (const std::exception& error) {
      problem("error: ", error.what(), report.errors);
    }
    events_.progress(report.bytes);
  }

  ShardReport report;

 private:
  void read_sample(const ShardSet& shard, std::int64_t sample) {
    ++report.samples;
    OmniRowProblems problems;
    const std::vector<ShardMember> members = shard.members(sample, kHead);
    const OmniRow row = check_omni_row(members, limits_, problems);
    if (problems.errors.empty()) count(report, members, row);
    report.bad_samples += !problems.errors.empty();
    if (problems.errors.empty() && problems.warnings.empty()) return;
    const std::string place = shard.place(sample) + ": ";
    for (const std::string& error : problems.errors) problem("error: ", place + error, report.errors);
    for (const std::string& warning : problems.warnings) problem("warning: ", place + warning, report.warnings);
  }

  void problem(const char* kind, const std::string& text, std::int64_t& counter) {
    ++counter;
    events_.problem(kind + text);
  }

  const OmniRowLimits& limits_;
  const ShardReportEvents& events_;
};

std::string number(std::int64_t count, const char* what) { return std::to_string(count) + " " + what; }

}  // namespace

std::string ShardReport::text() const {
  char hours[32];
  std::snprintf(hours, sizeof hours, "%.2f", static_cast<double>(answer_frames) / kFramesPerSecond / 3600);
  return "shards     " + number(shards, "with ") + count_text(static_cast<double>(bytes)) + "B\n" + "samples    " +
         number(samples, "of which ") + number(bad_samples, "have errors\n") + "problems   " +
         number(errors, "errors, ") + number(warnings, "warnings\n") + "turns      " + std::to_string(turns) + "\n" +
         "answers    " + number(spoken_answers, "spoken, ") + hours + " hours\n" + "questions  " +
         number(encoded_questions, "with states, ") + number(recorded_questions, "as a recording alone\n") +
         "voices     " + number(speakers, "speaker vectors, ") + number(references, "reference clips\n") +
         "pictures   " + number(encoded_pictures, "with states, ") + number(plain_pictures, "as a picture alone\n");
}

ShardReport report_shards(const std::vector<fs::path>& shards, const OmniRowLimits& limits,
                          const ShardReportEvents& events) {
  Reporter reporter(limits, events);
  for (const fs::path& path : shards) reporter.read(path);
  return reporter.report;
}

}  // namespace omni
