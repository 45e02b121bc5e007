#include "trainers/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <ostream>

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

// Bytes of the leading complete lines that belong to the header and to steps up to `step`.
std::uint64_t kept_bytes(const std::filesystem::path& path, std::int64_t step) {
  std::ifstream in(path, std::ios::binary);
  std::uint64_t kept = 0;
  std::string line;
  for (std::int64_t number = 0; std::getline(in, line) && !in.eof(); ++number) {
    const Json object = Json::parse(line, nullptr, false);
    if (!object.is_object() || object.value("step", std::int64_t{0}) != number || number > step) break;
    kept += line.size() + 1;
  }
  return kept;
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& path, std::int64_t step, const Json& header) : path_(path) {
  const std::uint64_t kept = step > 0 && std::filesystem::exists(path) ? kept_bytes(path, step) : 0;
  file_ = FileDescriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file_) throw_file_error("open", path);
  if (::ftruncate(file_.get(), static_cast<off_t>(kept)) != 0) throw_file_error("shorten", path);
  if (kept == 0) write_line(header);
}

void MetricsFile::write_line(const Json& object) { write_all(file_, path_, object.dump() + "\n"); }

void MetricsFile::write(const StepMetrics& m) {
  Json line = {{"step", m.step}, {"epoch", m.epoch}};
  for (const auto& [name, value] : m.values) line[name] = value;
  line["learning_rate"] = m.learning_rate;
  line["grad_norm"] = m.grad_norm;
  line["tokens"] = m.tokens;
  line["labelled"] = m.labelled;
  line["truncated"] = m.truncated;
  line["seconds"] = m.seconds;
  line["data_seconds"] = m.data_seconds;
  line["tokens_per_s"] = m.tokens_per_s();
  line["fraction_of_peak"] = m.fraction_of_peak();
  write_line(line);
}

void MetricsFile::flush() {
  if (::fsync(file_.get()) != 0) throw_file_error("flush", path_);
}

void Progress::show(const StepMetrics& m) {
  // The first step warms up (memory, libraries), so the second one replaces it.
  const double weight = seen_++ < 2 ? 1 : 0.1;
  seconds_per_step_ += weight * (m.seconds - seconds_per_step_);
  tokens_per_s_ += weight * (m.tokens_per_s() - tokens_per_s_);
  fraction_ += weight * (m.fraction_of_peak() - fraction_);
  const Clock::time_point now = Clock::now();
  const auto pause = std::chrono::milliseconds(terminal_ ? 100 : 2000);
  if (now - shown_ < pause && m.step != steps_) return;
  shown_ = now;
  char line[256];
  std::snprintf(line, sizeof line, "step %lld/%lld loss %.4f lr %.2e norm %.2f %s tok/s %.0f%% of peak ETA %s",
                static_cast<long long>(m.step), static_cast<long long>(steps_), m.loss(), m.learning_rate, m.grad_norm,
                count_text(tokens_per_s_).c_str(), 100 * fraction_,
                duration_text(seconds_per_step_ * static_cast<double>(steps_ - m.step)).c_str());
  if (terminal_)
    out_ << "\r\x1b[K" << line << std::flush;
  else
    out_ << line << std::endl;
  open_line_ = terminal_;
}

void Progress::end_line() {
  if (open_line_) out_ << std::endl;
  open_line_ = false;
}

std::string duration_text(double seconds) {
  const auto total = static_cast<long long>(seconds + 0.5);
  char text[64];
  if (total < 60)
    std::snprintf(text, sizeof text, "%llds", total);
  else if (total < 3600)
    std::snprintf(text, sizeof text, "%lldm%02llds", total / 60, total % 60);
  else
    std::snprintf(text, sizeof text, "%lldh%02lldm", total / 3600, total / 60 % 60);
  return text;
}

std::string count_text(double count) {
  char text[64];
  const char* unit = "";
  for (const char* larger : {"k", "M", "G", "T", "P", "E"}) {
    if (count < 999.5) break;
    count /= 1000;
    unit = larger;
  }
  std::snprintf(text, sizeof text, *unit == 0 || count >= 99.95 ? "%.0f%s" : "%.1f%s", count, unit);
  return text;
}

}  // namespace omni
