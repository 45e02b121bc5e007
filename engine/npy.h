#pragma once
// The .npy file format of NumPy (its format specification, versions 1.0, 2.0 and 3.0): a magic, a Python dictionary
// with dtype and shape, then the values. Little-endian, C order, at most 4 dimensions; integers and floats.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace omni {

enum class NpyType : std::uint8_t { i8, i16, i32, i64, u8, u16, f16, f32, f64 };

const char* name_of(NpyType type);  // as NumPy names it: "int16"

// An array in bytes that belong to somebody else and need no alignment.
struct Npy {
  NpyType type = NpyType::f32;
  Shape shape;
  std::span<const std::byte> data;  // exactly the values
  std::string name;                 // opens the messages of errors

  bool is_float() const { return type >= NpyType::f16; }
  // The values, widened or rounded to nearest. Throws std::runtime_error for an array of the other kind.
  std::vector<std::int64_t> integers() const;
  std::vector<float> floats() const;
};

// Throws std::runtime_error that begins with `name` and tells what was expected and what was found. Reads no byte
// outside of `bytes` and allocates nothing that grows with what the header claims.
Npy parse_npy(std::span<const std::byte> bytes, const std::string& name);

// The bytes of a .npy file of version 1.0. The values must be as many as the shape says.
std::string npy_file(std::span<const std::int64_t> values, const Shape& shape);
std::string npy_file(std::span<const float> values, const Shape& shape);

}  // namespace omni
