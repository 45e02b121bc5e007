#include "engine/npy.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

using namespace omni;
using Catch::Matchers::Contains;

namespace {

// A file of any version with this header's text and these bytes behind it.
std::string file_of(const std::string& header, const std::string& data, char major = 1) {
  std::string out = std::string("\x93NUMPY") + major + '\0';
  const std::size_t width = major == 1 ? 2 : 4;
  for (std::size_t i = 0; i < width; ++i) out += static_cast<char>(header.size() >> 8 * i);
  return out + header + data;
}

std::string header_of(const std::string& descr, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}

Npy parse(const std::string& file) { return parse_npy(std::as_bytes(std::span(file)), "x.npy"); }

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
void check_integers(const std::string& descr, const char* name) {
  const std::vector<T> values = {0, 1, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), 42, 7};
  const std::string file = file_of(header_of(descr, "(2, 3)"), bytes_of(values));
  const Npy array = parse(file);
  CHECK(std::string(name_of(array.type)) == name);
  CHECK(array.shape == Shape{2, 3});
  CHECK(array.integers() == std::vector<std::int64_t>(values.begin(), values.end()));
  CHECK_THROWS_WITH(array.floats(), Contains("x.npy") && Contains("expected floats") && Contains(name));
}

}  // namespace

TEST_CASE("npy: integers of every width come back") {
  check_integers<std::int8_t>("|i1", "int8");
  check_integers<std::int16_t>("<i2", "int16");
  check_integers<std::int32_t>("<i4", "int32");
  check_integers<std::int64_t>("<i8", "int64");
  check_integers<std::uint8_t>("|u1", "uint8");
  check_integers<std::uint16_t>("<u2", "uint16");
}

TEST_CASE("npy: floats of every width come back") {
  const std::string half = file_of(header_of("<f2", "(3,)"), bytes_of<std::uint16_t>({0x3c00, 0xc500, 0x7c00}));
  CHECK(parse(half).floats() == std::vector<float>{1, -5, INFINITY});
  const std::string single = file_of(header_of("<f4", "(2, 1)"), bytes_of<float>({0.1f, -3e38f}));
  CHECK(parse(single).floats() == std::vector<float>{0.1f, -3e38f});
  const std::string wide = file_of(header_of("<f8", "(2,)"), bytes_of<double>({0.1, NAN}));
  const std::vector<float> rounded = parse(wide).floats();
  REQUIRE(rounded.size() == 2);
  CHECK(rounded[0] == 0.1f);
  CHECK(std::isnan(rounded[1]));
  CHECK_THROWS_WITH(parse(wide).integers(), Contains("expected integers, found float64"));
}

TEST_CASE("npy: what is written is read, and its values are aligned") {
  for (const Shape& shape : {Shape{}, Shape{5}, Shape{0}, Shape{2, 3}, Shape{3, 0, 8}, Shape{2, 1, 3, 2}}) {
    std::vector<std::int64_t> codes(static_cast<std::size_t>(shape.count()));
    std::vector<float> states(codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) states[i] = static_cast<float>(codes[i] = 3 * std::int64_t(i) - 1);
    const std::string first = npy_file(codes, shape), second = npy_file(states, shape);
    CHECK(parse(first).shape == shape);
    CHECK(parse(first).integers() == codes);
    CHECK(parse(second).shape == shape);
    CHECK(parse(second).floats() == states);
    CHECK((first.size() - codes.size() * 8) % 64 == 0);
  }
  CHECK_THROWS_AS(npy_file(std::vector<float>(3), Shape{2, 2}), std::logic_error);
}

TEST_CASE("npy: headers that look unusual are read") {
  const std::string data = bytes_of<std::int32_t>({1, 2, 3});
  for (const std::string& header : {
           std::string("{'shape':(3,),'fortran_order':False,'descr':'<i4'}"),
           std::string("  { \"descr\" : \"<i4\" ,\n\t'fortran_order' : False , 'shape' : ( 3 , ) }   \n"),
           std::string("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 1, 1,), }"),
           header_of("<i4", "(3,)") + std::string(70000, ' '),
       })
    CHECK(parse(file_of(header, data, header.size() > 65535 ? 2 : 1)).integers() == std::vector<std::int64_t>{1, 2, 3});
  CHECK(parse(file_of(header_of("<i4", "(3,)"), data, 2)).shape == Shape{3});
  CHECK(parse(file_of(header_of("<i4", "(3,)"), data, 3)).shape == Shape{3});
  CHECK(parse(file_of(header_of("<i1", "(12,)"), data)).shape == Shape{12});
  CHECK(parse(file_of(header_of("<i4", "()"), data.substr(0, 4))).shape == Shape{});
}

TEST_CASE("npy: errors name the file, what was expected and what was found") {
  const std::string data = bytes_of<std::int32_t>({1, 2, 3}), good = header_of("<i4", "(3,)");
  const auto fails = [&](const std::string& file, const std::string& text) {
    CHECK_THROWS_WITH(parse(file), Contains("x.npy") && Contains(text));
  };
  fails("", "expected a .npy file");
  fails("PK\3\4 something else", "expected a .npy file");
  fails("\x93NUMPY", "cut off in its version");
  fails(file_of(good, data, 4), "expected version 1.0, 2.0 or 3.0, found 4.0");
  fails(std::string("\x93NUMPY\2\0\1\0", 10), "cut off in its header's length");
  fails(file_of(good, data).substr(0, 40), "expected a header of");
  fails(file_of(good, data.substr(0, 11)), "expected 12 bytes of int32 [3], found 11");
  fails(file_of(good, data + " "), "expected 12 bytes of int32 [3], found 13");
  fails(file_of(header_of(">i4", "(3,)"), data), "little-endian dtype");
  for (const char* descr : {"=i4", "|i4", "<u4", "<c8", "|O", "|b1", "<U3", "", "<i44"})
    fails(file_of(header_of(descr, "(3,)"), data), std::string("found '") + descr + "'");
  fails(file_of("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (3,)}", data), "a text in quotes");
  fails(file_of("{'descr': '<i4', 'fortran_order': True, 'shape': (3,)}", data), "expected 'fortran_order': False");
  fails(file_of("{'descr': '<i4', 'fortran_order': 0, 'shape': (3,)}", data), "expected True or False");
  fails(file_of("{'descr': '<i4', 'shape': (3,)}", data), "expected the key 'fortran_order'");
  fails(file_of("{'descr': '<i4', 'fortran_order': False}", data), "expected the key 'shape'");
  fails(file_of("{'fortran_order': False, 'shape': (3,)}", data), "expected the key 'descr'");
  fails(file_of("{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (3,)}", data), "found it twice");
  fails(file_of("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), 'x': 1}", data), "found 'x'");
  fails(file_of(good + "x", data), "expected nothing behind the dictionary");
  fails(file_of(good.substr(0, good.size() - 3), data), "its end");
  fails(file_of("[]", data), "expected '{', found '[]'");
  fails(file_of(header_of("<i4", "3"), data), "expected '('");
  fails(file_of(header_of("<i4", "(3)"), data), "with a comma");
  fails(file_of(header_of("<i4", "(-3,)"), data), "expected a number");
  fails(file_of(header_of("<i4", "(3 1)"), data), "',' or ')'");
  fails(file_of(header_of("<i4", "(1, 1, 1, 1, 3)"), data), "at most 4 dimensions");
  fails(file_of(header_of("<i4", "(9223372036854775808,)"), data), "63 bits");
  fails(file_of(header_of("<i4", "(4611686018427387904, 4611686018427387904)"), data), "2^63 bytes");
  fails(file_of(header_of("<i4", "(4611686018427387904, 4611686018427387904, 0)"), ""), "2^63 bytes");
}
