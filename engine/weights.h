#pragma once
// One door to weight files of every kind, for model code.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/device.h"
#include "engine/pth.h"
#include "engine/safetensors.h"

namespace omni {

// Named tensors of a file or of a model directory. Views live as long as this object (moving it keeps them valid).
class WeightSource {
 public:
  const std::vector<std::string>& names() const { return names_; }  // in the files' order
  bool contains(std::string_view name) const { return places_.count(std::string(name)) != 0; }
  // Throws std::runtime_error naming the source and the tensor, and the nearest name if it is missing.
  ConstView at(std::string_view name) const;
  const std::string& path() const { return path_; }

 private:
  friend WeightSource open_weights(const std::filesystem::path& path);
  struct Place {
    const SafetensorsFile* file;  // null if the tensor stands in `tensor`
    PthTensor tensor;
  };

  void open_directory(const std::filesystem::path& folder);
  void open_shards(const std::filesystem::path& index);
  void open_file(const std::filesystem::path& file);
  void open_pth(const std::filesystem::path& file);
  void add(const std::string& name, Place place, const std::filesystem::path& file);

  std::string path_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Place> places_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

// Opens, in this order of preference,
//   a directory with model.safetensors, model.safetensors.index.json and its shards, pytorch_model.bin,
//   pytorch_model.bin.index.json and its shards, or exactly one *.pth;
//   a single file, safetensors or .pth by its content, whatever its name is. Entries of a .pth that are no tensors are
//   skipped; a training checkpoint that holds its state dict under the key "model" is accepted.
// Throws std::runtime_error naming the path and what was expected there.
WeightSource open_weights(const std::filesystem::path& path);

// to = from, converted where the dtypes differ: f32, bf16, f16 and f64 to each other, rounded to nearest even (what is
// too large becomes infinite); other dtypes only to themselves. Shapes must be equal. The two must not overlap.
// Throws std::runtime_error.
void copy_converted(const ConstView& from, const View& to);
// The same for `to` in the memory of a device.
void copy_converted(Device& device, const ConstView& from, const View& to);

}  // namespace omni
