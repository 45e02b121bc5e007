#include "engine/weights.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "engine/files.h"
#include "engine/mapped_file.h"
#include "engine/suggest.h"

namespace omni {
namespace fs = std::filesystem;

ConstView WeightSource::at(std::string_view name) const {
  const auto found = places_.find(std::string(name));
  if (found == places_.end())
    throw std::runtime_error(path_ + ": no tensor '" + std::string(name) + "'" + did_you_mean(name, names_));
  if (found->second.file != nullptr) return found->second.file->at(name);
  try {
    return found->second.tensor.view();
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path_ + ": tensor '" + std::string(name) + "': " + error.what());
  }
}

void WeightSource::add(const std::string& name, Place place, const fs::path& file) {
  if (!places_.emplace(name, std::move(place)).second)
    throw std::runtime_error(file.string() + ": tensor '" + name + "' occurs in another file too");
  names_.push_back(name);
}

void WeightSource::open_pth(const fs::path& path) {
  const PthValue root = read_pth(path);
  const auto has_tensors = [](const PthValue::Dictionary* items) {
    return items != nullptr && std::any_of(items->begin(), items->end(), [](const PthValue::Item& item) {
             return item.value.get<PthTensor>() != nullptr;
           });
  };
  const PthValue::Dictionary* items = root.get<PthValue::Dictionary>();
  if (const PthValue* model = root.find("model"); !has_tensors(items) && model != nullptr)
    items = model->get<PthValue::Dictionary>();
  if (!has_tensors(items))
    throw std::runtime_error(path.string() + ": expected a dictionary of tensors, found a " + root.kind());
  for (const auto& [key, value] : *items) {
    const std::string* name = key.get<std::string>();
    const PthTensor* tensor = value.get<PthTensor>();
    if (name != nullptr && tensor != nullptr) add(*name, {nullptr, *tensor}, path);
  }
}

void WeightSource::open_file(const fs::path& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  const bool is_zip = bytes.size() >= 2 && bytes[0] == std::byte{'P'} && bytes[1] == std::byte{'K'};
  const bool is_pickle = bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] == std::byte{2};
  const bool is_safetensors = bytes.size() >= 9 && bytes[8] == std::byte{'{'};
  if (is_safetensors) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    for (const std::string& name : files_.back()->names()) add(name, {files_.back().get(), {}}, path);
  } else if (is_zip || is_pickle) {
    open_pth(path);
  } else {
    throw std::runtime_error(path.string() + ": neither a safetensors nor a .pth file");
  }
}

// An index names for each tensor the file beside it that holds the tensor.
void WeightSource::open_shards(const fs::path& index) {
  std::map<std::string, std::string> weight_map;
  try {
    weight_map = nlohmann::json::parse(read_text_file(index)).at("weight_map").get<decltype(weight_map)>();
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(index.string() + ": expected an object 'weight_map' of texts: " + error.what());
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) {
    if (shard.empty() || fs::path(shard).filename() != shard || shard == "." || shard == "..")
      throw std::runtime_error(index.string() + ": tensor '" + name + "': '" + shard + "' is no plain file name");
    shards.insert(shard);
  }
  for (const std::string& shard : shards) {
    WeightSource part;
    part.path_ = (index.parent_path() / shard).string();
    part.open_file(part.path_);
    for (const std::string& name : part.names_)
      if (const auto listed = weight_map.find(name); listed != weight_map.end() && listed->second == shard)
        add(name, std::move(part.places_.at(name)), part.path_);
    for (auto& file : part.files_) files_.push_back(std::move(file));
  }
  for (const auto& [name, shard] : weight_map)
    if (!contains(name)) throw std::runtime_error(index.string() + ": tensor '" + name + "' is not in " + shard);
}

void WeightSource::open_directory(const fs::path& folder) {
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const fs::path file = folder / name, index = folder / (std::string(name) + ".index.json");
    if (fs::exists(file)) return open_file(file);
    if (fs::exists(index)) return open_shards(index);
  }
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".pth") found.push_back(entry.path());
  if (found.size() != 1)
    throw std::runtime_error(folder.string() +
                             ": expected model.safetensors, pytorch_model.bin, an index of one of them, or exactly one "
                             "*.pth; found " +
                             std::to_string(found.size()) + " *.pth");
  open_file(found.front());
}

WeightSource open_weights(const fs::path& path) {
  WeightSource source;
  source.path_ = path.string();
  if (fs::is_directory(path))
    source.open_directory(path);
  else
    source.open_file(path);
  return source;
}

void copy_converted(Device& device, const ConstView& from, const View& to) {
  if (to.place == Place::host) return copy_converted(from, to);
  const OwnedTensor converted(to.dtype, to.shape);
  copy_converted(from, converted);
  device.copy(to, converted);
}

}  // namespace omni
