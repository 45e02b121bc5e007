#include "trainers/checkpoint.h"

#include <ostream>
#include <stdexcept>

#include "engine/files.h"
#include "engine/safetensors.h"
#include "models/json_text.h"
#include "trainers/checksum.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "omni checkpoint 1";

// The part of a block with the layout of store.master() that belongs to one of its named views.
View part_of(const View& block, const ParameterStore& store, const View& named) {
  const std::ptrdiff_t offset = static_cast<std::byte*>(named.data) - static_cast<std::byte*>(store.master().data);
  return slice(block, offset / static_cast<std::ptrdiff_t>(size_of(named.dtype)), named.shape);
}

void save_optimizer(const fs::path& path, const ParameterStore& store, const AdamWOptimizer& optimizer) {
  std::vector<NamedView> tensors;
  std::vector<OwnedTensor> memory;
  for (const auto& [prefix, block] : {std::pair("moment1.", optimizer.moment1()), {"moment2.", optimizer.moment2()}})
    for (const auto& [name, view] : store.named_masters())
      tensors.push_back({prefix + name, store.device().on_host(part_of(block, store, view), memory)});
  write_safetensors(path, tensors, {{"steps", std::to_string(optimizer.steps())}});
}

Json describe_file(const fs::path& path) {
  return {{"bytes", fs::file_size(path)}, {"checksum", hex(checksum_of_file(path))}};
}

// state.json guards the other files by their checksums and itself by one over all else in it.
void write_state(const fs::path& folder, const TrainingState& state) {
  Json json = {{"format", kFormat}, {"step", state.step}, {"finished", state.finished}, {"recipe", state.identity}};
  std::map<std::string, Json> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = describe_file(entry.path());
  for (const auto& [name, description] : files) json["files"][name] = description;
  json["checksum"] = hex(checksum(json.dump()));
  write_text_file(folder / "state.json", json.dump(2) + "\n");
}

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
  throw std::runtime_error(path.string() + ": " + message);
}

void check_file(const fs::path& path, const Json& description) {
  if (!fs::is_regular_file(path)) fail(path, "the file is missing");
  const auto bytes = description.at("bytes").get<std::uint64_t>();
  if (fs::file_size(path) != bytes)
    fail(path, "damaged: expected " + std::to_string(bytes) + " bytes, found " + std::to_string(fs::file_size(path)));
  const std::string found = hex(checksum_of_file(path));
  if (description.at("checksum") != found)
    fail(path, "damaged: expected checksum " + description.at("checksum").get<std::string>() + ", found " + found);
}

Checkpoint open_checkpoint(const fs::path& folder) {
  const fs::path path = folder / "state.json";
  Json json = parse_json<Json>(read_text_file(path), path.string());
  try {
    const Json sum = json.at("checksum");
    json.erase("checksum");
    if (sum != hex(checksum(json.dump()))) fail(path, "damaged: its checksum does not fit");
    if (json.at("format") != kFormat)
      fail(path, std::string("expected format '") + kFormat + "', found " + describe_json(json.at("format")));
    for (const char* name : {"config.json", "model.safetensors", "optimizer.safetensors"}) json.at("files").at(name);
    for (const auto& [name, description] : json.at("files").items()) check_file(folder / name, description);
    return {folder, {json.at("step"), json.at("finished"), json.at("recipe")}};
  } catch (const Json::exception& error) {
    fail(path, std::string("damaged: ") + error.what());
  }
}

// Makes checkpoint.previous the same as checkpoint. Files are shared where the file system can; nobody writes into
// them.
void keep_previous(const fs::path& output) {
  const fs::path current = checkpoint_of(output);
  recover_folder(current);
  if (!fs::is_directory(current)) return;
  AtomicFolder previous(previous_checkpoint_of(output));
  for (const fs::directory_entry& entry : fs::directory_iterator(current)) {
    const fs::path copy = previous.staging() / entry.path().filename();
    std::error_code refused;
    fs::create_hard_link(entry.path(), copy, refused);
    if (refused) fs::copy_file(entry.path(), copy);
  }
  previous.commit();
}

}  // namespace

TextFiles read_tokenizer_files(const fs::path& directory) {
  TextFiles files;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    if (fs::exists(directory / name)) files[name] = read_text_file(directory / name);
  return files;
}

void write_text_files(const fs::path& directory, const TextFiles& files) {
  for (const auto& [name, text] : files) write_text_file(directory / name, text);
}

void save_checkpoint(const fs::path& output, const ParameterStore& store, const AdamWOptimizer& optimizer,
                     const TrainingState& state, const TextFiles& tokenizer,
                     const std::function<void(const fs::path&)>& save_model) {
  AtomicFolder folder(checkpoint_of(output));
  save_model(folder.staging());
  write_text_files(folder.staging(), tokenizer);
  save_optimizer(folder.staging() / "optimizer.safetensors", store, optimizer);
  write_state(folder.staging(), state);
  keep_previous(output);
  folder.commit();
}

std::optional<Checkpoint> find_checkpoint(const fs::path& output, std::ostream& out) {
  std::string errors;
  for (const fs::path& folder : {checkpoint_of(output), previous_checkpoint_of(output)}) {
    recover_folder(folder);
    if (!fs::exists(folder)) continue;
    try {
      Checkpoint found = open_checkpoint(folder);
      if (!errors.empty())
        out << "warning: " << errors << "\nwarning: going back to " << folder.string() << ", step " << found.state.step
            << "\n";
      return found;
    } catch (const std::runtime_error& error) {
      errors += (errors.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  if (errors.empty()) return std::nullopt;
  throw std::runtime_error("no usable checkpoint in " + output.string() + ": " + errors +
                           "; overwrite=true without --resume starts anew");
}

void check_identity(const Checkpoint& checkpoint, const Json& identity) {
  std::string differences;
  const auto compare = [&](const Json& one, bool both) {
    for (const auto& [key, value] : one.items()) {
      const Json &before = checkpoint.state.identity, missing = "nothing";
      const Json was = before.contains(key) ? before.at(key) : missing;
      const Json is = identity.contains(key) ? identity.at(key) : missing;
      if (was != is && (both || !identity.contains(key)))
        differences += "\n  " + key + ": was " + was.dump() + ", is " + is.dump();
    }
  };
  compare(identity, true);
  compare(checkpoint.state.identity, false);
  if (!differences.empty())
    throw std::runtime_error(checkpoint.path.string() +
                             " belongs to another run, so it cannot be resumed; different are:" + differences);
}

void restore_optimizer(const Checkpoint& checkpoint, const ParameterStore& store, AdamWOptimizer& optimizer) {
  const SafetensorsFile file(checkpoint.path / "optimizer.safetensors");
  for (const auto& [prefix, block] : {std::pair("moment1.", optimizer.moment1()), {"moment2.", optimizer.moment2()}})
    for (const auto& [name, view] : store.named_masters()) {
      const ConstView from = file.at(prefix + name);
      const View to = part_of(block, store, view);
      if (from.dtype != to.dtype || !(from.shape == to.shape))
        fail(file.path(), prefix + name + ": expected " + name_of(to.dtype) + " " + to.shape.text() + ", found " +
                              name_of(from.dtype) + " " + from.shape.text());
      store.device().copy(to, from);
    }
  const auto steps = file.metadata().find("steps");
  if (steps == file.metadata().end()) fail(file.path(), "the number of steps is missing");
  optimizer.set_steps(std::stoll(steps->second));
}

}  // namespace omni
