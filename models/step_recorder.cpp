#include "models/step_recorder.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>

namespace omni {
namespace {

const std::byte* begin_of(const ConstView& view) { return static_cast<const std::byte*>(view.data); }

std::vector<std::string> components(std::string_view name) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    out.emplace_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

std::string joined(const std::vector<std::string>& parts, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += (i ? "." : "") + parts[i];
  return out;
}

// What the names have in common, whole components without the last one ("weight").
std::string common_module(const std::vector<std::string>& names) {
  std::vector<std::string> common = components(names[0]);
  common.pop_back();
  for (const std::string& name : names) {
    const std::vector<std::string> parts = components(name);
    const auto [end, other] = std::mismatch(common.begin(), common.end(), parts.begin(), parts.end());
    common.erase(end, common.end());
  }
  return joined(common, common.size());
}

// A block of a stack of layers, or a top module: "model.layers.3", "talker.lm_head", "audio_proj".
std::string section_of(const std::string& module) {
  const std::vector<std::string> parts = components(module);
  const auto layers = std::find(parts.begin(), parts.end(), "layers");
  if (layers != parts.end() && layers + 1 != parts.end())
    return joined(parts, static_cast<std::size_t>(layers - parts.begin()) + 2);
  const bool nested = parts[0] == "model" || parts[0] == "talker";
  return joined(parts, std::min<std::size_t>(parts.size(), nested ? 2 : 1));
}

// "omni::Tensor omni::swiglu(omni::Tape&, ...)" -> "swiglu"
std::string short_name(std::string_view function) {
  function = function.substr(0, function.find('('));
  const std::size_t begin = function.find_last_of(": *&");
  return std::string(begin == std::string_view::npos ? function : function.substr(begin + 1));
}

// A path as the compiler was given it, from the root of the repository on.
std::string repository_path(const std::string& path) {
  const std::size_t room = path.rfind("autograd/");
  return room == std::string::npos ? path : path.substr(room);
}

}  // namespace

std::string joined_name(const std::vector<std::string>& names) {
  constexpr std::size_t kListed = 3;
  std::vector<std::vector<std::string>> different;  // by component
  for (const std::string& name : names) {
    const std::vector<std::string> parts = components(name);
    different.resize(std::max(different.size(), parts.size()));
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (std::find(different[i].begin(), different[i].end(), parts[i]) == different[i].end())
        different[i].push_back(parts[i]);
  }
  std::vector<std::string> out;
  for (const std::vector<std::string>& parts : different) {
    std::string text = parts[0];
    for (std::size_t i = 1; i < parts.size(); ++i) text += "," + parts[i];
    out.push_back(parts.size() == 1 ? text : parts.size() <= kListed ? "{" + text + "}" : "*");
  }
  return joined(out, out.size());
}

StepRecorder::StepRecorder(const ParameterStore& store, std::int64_t positions) {
  size_.positions = positions;
  for (const Parameter& parameter : store.parameters()) {
    std::vector<std::string> names;
    for (const ParameterPart& part : parameter.parts) names.push_back(part.name);
    const std::string name = joined_name(names);
    for (const View& view : {parameter.value, parameter.gradient})
      if (view)
        parameters_[begin_of(view)] = {begin_of(view) + view.bytes(), name, view.data == parameter.gradient.data, {}};
  }
}

void StepRecorder::begin(Tape& tape) {
  tape_ = &tape;
  tape.device().set_observer([this](const Execution& execution) { add(execution); });
}

void StepRecorder::end() {
  if (tape_ == nullptr) return;
  tape_->device().set_observer({});
  name_ops();
  tape_ = nullptr;
  memory_.clear();
}

void StepRecorder::name_result(const std::string& name, const ConstView& value) {
  if (tape_ == nullptr) return;
  recording_.results.push_back({name, writer_of(value), value.shape, picture(value)});
  if (name.ends_with("logits")) first_loss_op_ = recording_.ops.size();
}

void StepRecorder::set_seconds(const std::vector<double>& seconds) {
  if (seconds.size() < recording_.instructions.size())
    throw std::invalid_argument("recorder: " + std::to_string(seconds.size()) + " times for " +
                                std::to_string(recording_.instructions.size()) + " instructions");
  for (std::size_t i = 0; i < recording_.instructions.size(); ++i) recording_.instructions[i].seconds = seconds[i];
}

void StepRecorder::add(const Execution& execution) {
  const auto index = static_cast<std::int64_t>(recording_.instructions.size());
  const auto [op, is_new] = op_indices_.try_emplace(tape_->current_op(), recording_.ops.size());
  if (is_new) {
    recording_.ops.emplace_back();
    tape_ops_.push_back(op->first);
  }
  Recording::Instruction instruction{execution.instruction, tape_->in_backward(), op->second,
                                     execution.seconds,     execution.work,       {}};
  std::vector<std::int64_t> writers;
  for (const NamedOperand& operand : execution.operands) writers.push_back(writer_of(operand.view));
  for (const NamedOperand& operand : execution.operands)
    if (operand.view && operand.view.written) mark_written(operand.view, index);
  for (std::size_t i = 0; i < execution.operands.size(); ++i) {
    const auto& [name, view] = execution.operands[i];
    if (!view) continue;
    const Owner* owner = owner_of(view);
    const bool reads = !view.written && (owner == nullptr || owner->gradient);
    instruction.operands.push_back({name, view.dtype, view.shape, view.written, owner ? owner->name : "",
                                    owner && owner->gradient, reads ? writers[i] : Recording::kNone, picture(view)});
  }
  recording_.instructions.push_back(std::move(instruction));
}

// What lay in this memory before is gone.
void StepRecorder::mark_written(const ConstView& view, std::int64_t writer) {
  const std::byte *begin = begin_of(view), *end = begin + view.bytes();
  auto entry = memory_.lower_bound(begin);
  if (entry != memory_.begin() && std::prev(entry)->second.end > begin) --entry;
  while (entry != memory_.end() && entry->first < end) entry = memory_.erase(entry);
  memory_[begin] = {end, writer, {}};
}

std::int64_t StepRecorder::writer_of(const ConstView& view) const {
  if (!view) return Recording::kNone;
  auto entry = memory_.upper_bound(begin_of(view));
  if (entry == memory_.begin()) return Recording::kNone;
  --entry;
  return entry->second.end >= begin_of(view) + view.bytes() ? entry->second.writer : Recording::kNone;
}

StepRecorder::Owner* StepRecorder::owner_of(const ConstView& view) {
  auto entry = parameters_.upper_bound(begin_of(view));
  if (entry == parameters_.begin()) return nullptr;
  --entry;
  return entry->second.end >= begin_of(view) + view.bytes() ? &entry->second : nullptr;
}

// A picture serves as long as nobody writes to its memory.
std::size_t StepRecorder::picture(const ConstView& view) {
  const auto written = memory_.find(begin_of(view));
  Owner* const owner = owner_of(view);
  Pictures* pictures = nullptr;
  if (written != memory_.end() && written->second.end >= begin_of(view) + view.bytes())
    pictures = &written->second.pictures;
  else if (owner != nullptr && !owner->gradient)
    pictures = &owner->pictures;
  const std::size_t next = recording_.pictures.size();
  const std::size_t index = pictures ? pictures->try_emplace(Check::text(view), next).first->second : next;
  if (index == next) recording_.pictures.push_back(picture_of(tape_->device(), view, size_));
  return index;
}

// Ops without parameters stand where the op before them stands; what follows the logits is the loss.
void StepRecorder::name_ops() {
  std::vector<std::set<std::string>> parameters(recording_.ops.size());
  for (const Recording::Instruction& instruction : recording_.instructions)
    for (const Recording::Value& value : instruction.operands)
      if (!value.parameter.empty()) parameters[instruction.op].insert(value.parameter);
  for (std::size_t i = 0; i < recording_.ops.size(); ++i) {
    Recording::Op& op = recording_.ops[i];
    if (tape_ops_[i] < tape_->op_count()) {
      const std::source_location& source = tape_->source_of(tape_ops_[i]);
      op.function = short_name(source.function_name());
      op.file = repository_path(source.file_name());
      op.line = source.line();
    }
    if (!parameters[i].empty()) {
      op.module = common_module({parameters[i].begin(), parameters[i].end()});
      op.section = section_of(op.module);
    } else if (i >= first_loss_op_) {
      op.section = "loss";
    } else if (i > 0) {
      op.section = recording_.ops[i - 1].section;
    }
    if (op.section.empty()) op.section = "input";
  }
}

}  // namespace omni
