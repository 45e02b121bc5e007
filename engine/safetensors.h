#pragma once
// The safetensors file format (huggingface.co/docs/safetensors): 8 bytes with the length of a JSON header, the header
// with dtype, shape and position of every tensor, then the tensors' bytes, little-endian, without holes.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/mapped_file.h"
#include "engine/named_view.h"

namespace omni {

// A file open for reading. Opening checks the whole header: its length, its JSON, known dtypes, sizes, and that the
// tensors' ranges lie in the file, agree with their shapes, and neither overlap nor leave holes. After that no access
// can leave the file. Errors are std::runtime_error and name file and tensor.
//
// Views are read-only and point into the mapped file; they live as long as this object (moving it keeps them valid).
// at() may be called from several threads.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  // Bytes in memory, which must outlive the object; `name` stands for the path in errors.
  SafetensorsFile(std::span<const std::byte> bytes, std::string name);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::vector<std::string>& names() const { return names_; }  // in the header's order
  bool contains(std::string_view name) const { return index_.count(std::string(name)) != 0; }
  // F32, BF16, F16, F64, I64, I32, U8 and BOOL (as u8), up to 4 dimensions; other tensors are an error here, not at
  // opening. A tensor that the file keeps at an address unfit for its type is copied once.
  ConstView at(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return name_; }

 private:
  struct Tensor;
  struct Copies;

  std::string name_;
  std::unique_ptr<MappedFile> file_;
  std::vector<std::string> names_;
  std::vector<Tensor> tensors_;                         // in the order of names_
  std::unordered_map<std::string, std::size_t> index_;  // name -> place in names_
  std::map<std::string, std::string> metadata_;
  std::unique_ptr<Copies> copies_;
};

// Writes tensors and metadata atomically (engine/files.h), streaming. The header lists the tensors in the given order;
// their bytes are laid out by falling element size, so that each is aligned for its type. With `as` all of them, which
// are then floating-point numbers, are converted on the way.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedView> tensors,
                       const std::map<std::string, std::string>& metadata = {}, std::optional<DType> as = {});

}  // namespace omni
