#include "engine/pth.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "engine/files.h"
#include "engine/pickle.h"
#include "engine/zip_reader.h"
#include "engine/zip_writer.h"
#include "tests/engine/weight_samples.h"
#include "tests/support/temporary_folder.h"

using namespace omni;
using Catch::Matchers::Contains;

namespace {

std::string text(const std::string& value) {  // BINUNICODE, short texts only
  return std::string("X") + static_cast<char>(value.size()) + std::string(3, '\0') + value;
}

std::string integer(std::int64_t value) {  // LONG1
  return std::string("\x8a\x08") + std::string(reinterpret_cast<const char*>(&value), 8);
}

std::string tuple(const std::vector<std::int64_t>& values) {
  std::string out = "(";
  for (const std::int64_t value : values) out += integer(value);
  return out + "t";
}

const std::string kCall = "ctorch._utils\n_rebuild_tensor_v2\n";

// The pickle of a tensor in storage "0".
std::string tensor(std::int64_t storage_count, std::int64_t offset, const std::vector<std::int64_t>& sizes,
                   const std::vector<std::int64_t>& strides, const std::string& storage = "FloatStorage") {
  return kCall + "((" + text("storage") + "ctorch\n" + storage + "\n" + text("0") + text("cpu") +
         integer(storage_count) + "tQ" + integer(offset) + tuple(sizes) + tuple(strides) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}

ZipWriter::Sink into(std::string& bytes) {
  return [&](const void* data, std::size_t size) { bytes.append(static_cast<const char*>(data), size); };
}

// A .pth file in memory with this pickle (without its first two bytes and the last) and storage 0.
std::string file_of(const std::string& pickle, const std::string& storage, const std::string& byteorder = "little") {
  std::string bytes;
  ZipWriter zip(into(bytes));
  zip.add("a/data.pkl", "\x80\x02" + pickle + ".");
  zip.add("a/byteorder", byteorder);
  zip.add("a/data/0", storage);
  zip.finish();
  return bytes;
}

const std::string kStorage(24 * sizeof(float), '\1');

PthValue parse(const std::string& pickle, const std::string& storage = kStorage) {
  const std::string bytes = file_of(pickle, storage);
  return parse_pth(bytes_of(bytes), "memory");
}

// Parses the bytes and touches all tensors. True if they are a valid file.
bool opens(const std::string& bytes) {
  const auto touch = [](const auto& self, const PthValue& value) -> unsigned {
    unsigned sum = 0;
    if (const PthTensor* tensor = value.get<PthTensor>(); tensor != nullptr && tensor->sizes.size() <= Shape::kMaxRank)
      for (std::int64_t i = 0; i < tensor->view().bytes(); ++i) sum += std::to_integer<unsigned>(tensor->data.get()[i]);
    if (const auto* items = value.get<PthValue::Dictionary>())
      for (const auto& item : *items) sum += self(self, item.value);
    return sum;
  };
  try {
    return touch(touch, parse_pth(bytes_of(bytes), "memory")) < UINT32_MAX;
  } catch (const std::runtime_error& error) {
    REQUIRE_THAT(error.what(), Contains("memory"));
    return false;
  }
}

}  // namespace

TEST_CASE(".pth files keep every dtype and shape") {
  const TemporaryFolder folder;
  const WeightSamples samples;
  write_pth(folder / "state.pth", samples.tensors);
  const PthValue root = read_pth(folder / "state.pth");
  const auto* items = root.get<PthValue::Dictionary>();
  REQUIRE(items != nullptr);
  REQUIRE(items->size() == samples.tensors.size());
  for (std::size_t i = 0; i < items->size(); ++i) {
    const auto& [name, view] = samples.tensors[i];
    CAPTURE(name);
    REQUIRE(*(*items)[i].key.get<std::string>() == name);
    REQUIRE(same((*items)[i].value.get<PthTensor>()->view(), view));
    REQUIRE(root.find(name) == &(*items)[i].value);
  }
  REQUIRE(root.find("none") == nullptr);
  REQUIRE(root.kind() == std::string("dictionary"));

  const std::string bytes = read_text_file(folder / "state.pth");
  std::size_t members = 0;  // each begins at a multiple of 64
  for (std::size_t at = bytes.find("PK\x03\x04"); at != bytes.npos; at = bytes.find("PK\x03\x04", at + 1), ++members) {
    std::uint16_t name_length, extra_length;
    std::memcpy(&name_length, &bytes[at + 26], 2);
    std::memcpy(&extra_length, &bytes[at + 28], 2);
    REQUIRE((at + 30 + name_length + extra_length) % 64 == 0);
    REQUIRE(bytes.substr(at + 30, 6) == "state/");
  }
  REQUIRE(members == samples.tensors.size() + 6);
}

TEST_CASE("the checksum is that of zip") {
  REQUIRE(crc32(bytes_of("123456789")) == 0xcbf43926);
  REQUIRE(crc32(bytes_of("56789"), crc32(bytes_of("1234"))) == 0xcbf43926);
  REQUIRE(crc32({}) == 0);
}

TEST_CASE("archives with 64-bit sizes and offsets can be read") {
  for (const std::uint64_t wide_from : {0, 70, 300}) {
    std::string bytes;
    ZipWriter zip(into(bytes), wide_from);
    zip.add("a/data.pkl", "\x80\x02N.");
    for (std::size_t i = 0; i < 5; ++i) zip.add("a/data/" + std::to_string(i), std::string(50 * i, 'x'));
    zip.finish();
    StoredZip read(bytes_of(bytes), "a");
    for (std::size_t i = 0; i < 5; ++i) {
      const Buffer member = read.read("data/" + std::to_string(i));
      REQUIRE(std::string(reinterpret_cast<const char*>(member.data()), member.bytes()) == std::string(50 * i, 'x'));
    }
  }
}

TEST_CASE("offset and strides of a tensor are honoured") {
  std::string storage(24 * sizeof(float), '\0');
  for (int i = 0; i < 24; ++i) {
    const float value = static_cast<float>(i);
    std::memcpy(&storage[static_cast<std::size_t>(i) * 4], &value, 4);
  }
  const auto numbers = [&](std::int64_t offset, const std::vector<std::int64_t>& sizes,
                           const std::vector<std::int64_t>& strides) {
    const PthValue value = parse(tensor(24, offset, sizes, strides), storage);
    const ConstView view = value.get<PthTensor>()->view();
    return std::vector<float>(view.as<float>(), view.as<float>() + view.count());
  };
  REQUIRE(numbers(5, {3}, {1}) == std::vector<float>{5, 6, 7});
  REQUIRE(numbers(1, {2, 3}, {12, 1}) == std::vector<float>{1, 2, 3, 13, 14, 15});
  REQUIRE(numbers(0, {3, 2}, {1, 4}) == std::vector<float>{0, 4, 1, 5, 2, 6});
  REQUIRE(numbers(2, {2, 2, 2, 2}, {8, 1, 3, 2}) ==
          std::vector<float>{2, 4, 5, 7, 3, 5, 6, 8, 10, 12, 13, 15, 11, 13, 14, 16});
  REQUIRE(numbers(7, {}, {}) == std::vector<float>{7});
  REQUIRE(numbers(7, {3}, {0}) == std::vector<float>{7, 7, 7});
  REQUIRE(numbers(23, {1, 1}, {99, 77}) == std::vector<float>{23});
  REQUIRE(numbers(24, {0, 5}, {5, 1}).empty());
}

TEST_CASE("values of every kind") {
  const std::string list =
                        "](K\x01K\x02"
                        "eNa",
                    pair = std::string("M\x01\x02") + "J\xfe\xff\xff\xff\x86";
  const PthValue root = parse("}q\x01(" + text("none") + "N" + text("yes") + "\x88" + text("low") + integer(-5) +
                              text("real") + "G\x3f\xf8" + std::string(6, '\0') + text("list") + list + text("pair") +
                              pair + text("zero") + std::string("\x8a\0", 2) + text("short") + "\x8a\x01\x80" +
                              integer(3) + text("three") + text("none") + "K\x07u");
  REQUIRE(root.get<PthValue::Dictionary>()->size() == 9);
  REQUIRE(*root.find("none")->get<std::int64_t>() == 7);  // the later value of a key counts
  REQUIRE(*root.find("yes")->get<bool>());
  REQUIRE(*root.find("low")->get<std::int64_t>() == -5);
  REQUIRE(*root.find("real")->get<double>() == 1.5);
  REQUIRE(root.find("list")->get<PthValue::List>()->size() == 3);
  REQUIRE(root.find("list")->get<PthValue::List>()->back().kind() == std::string("none"));
  const PthValue::List& items = root.find("pair")->get<PthValue::Tuple>()->items;
  REQUIRE(*items[0].get<std::int64_t>() == 0x201);
  REQUIRE(*items[1].get<std::int64_t>() == -2);
  REQUIRE(*root.find("zero")->get<std::int64_t>() == 0);
  REQUIRE(*root.find("short")->get<std::int64_t>() == -128);
}

TEST_CASE("a module's state dict: ordered dictionary, attributes, memo") {
  const PthValue root =
      parse("ccollections\nOrderedDict\nq\x01)Rr\x02" + std::string(3, '\0') + text("w") + tensor(24, 0, {24}, {1}) +
            "q\x05s" + text("tied") + "h\x05s}" + text("_metadata") + "}sb");
  REQUIRE(root.get<PthValue::Dictionary>()->size() == 2);
  REQUIRE(root.find("w")->get<PthTensor>()->data == root.find("tied")->get<PthTensor>()->data);
}

TEST_CASE("hostile pickles are errors that name the place") {
  const std::int64_t huge = std::int64_t{1} << 62;
  const std::pair<std::string, std::string> cases[] = {
      {"cos\nsystem\n" + text("true") + "\x85R", "pickle byte 2: GLOBAL 'os system'"},
      {"cbuiltins\neval\n", "builtins eval"},
      {"ctorch._utils\n_rebuild_parameter\n", "_rebuild_parameter"},
      {"c" + std::string(100000, 'x'), "GLOBAL"},
      {"ctorch\nFloatStorage\n)R", "FloatStorage"},
      {"ctorch\nFloatStorage\n", "global"},
      {kCall + ")R", "0 arguments"},
      {text("posix") + text("system") + "\x93", "0x93"},  // STACK_GLOBAL
      {"(" + text("x") + "ios\nsystem\n", "0x69"},        // INST
      {"(o", "0x6f"},                                     // OBJ
      {"", "empty stack"},
      {"(((", "empty stack"},
      {"t", "mark"},
      {"R", "empty stack"},
      {"N(R", "empty stack"},
      {"NNs", "empty stack"},
      {"NNNs", "expected a dictionary"},
      {"}(Nu", "without a value"},
      {"}NNs", "key must be text"},
      {"NNa", "expected a list"},
      {"]Nb", "expected a dictionary"},
      {"h\x01", "memo"},
      {"j\xff\xff\xff\xff", "memo"},
      {"NQ", "expected a tuple"},
      {")Q", "storage"},
      {"X\xff\xff\xff\xff", "cut off"},
      {"\x8a\xff", "too large"},
      {"]q\x01h\x01"
       "a",
       "deep"},  // a list in itself
      {"]q\x01(h\x01h\x01"
       "e",
       "deep"},
      {tensor(24, -1, {1}, {1}), "outside"},
      {tensor(24, 24, {1}, {1}), "outside"},
      {tensor(24, 24, {}, {}), "outside"},
      {tensor(24, 0, {25}, {1}), "outside"},
      {tensor(24, 0, {2, 2}, {23, 1}), "outside"},
      {tensor(24, 0, {2}, {-1}), "negative"},
      {tensor(24, 5, {-1}, {1}), "negative"},
      {tensor(24, 0, {-1, -1}, {1, 1}), "negative"},
      {tensor(24, 0, {huge, huge}, {0, 0}), "outside"},
      {tensor(24, huge, {3}, {huge}), "outside"},
      {tensor(24, 0, {5}, {huge}), "outside"},
      {tensor(24, 0, {1 << 30}, {0}), "memory"},
      {tensor(24, 0, {2, 2}, {1}), "strides"},
      {tensor(24, 0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)), "65 sizes"},
      {tensor(23, 0, {1}, {1}), "storage 0"},
      {tensor(-1, 0, {1}, {1}), "storage 0"},
      {tensor(huge, 0, {1}, {1}), "storage 0"},
      {tensor(24, 0, {1}, {1}, "ShortStorage"), "ShortStorage"},
      {"](" + tensor(24, 0, {1}, {1}) + tensor(24, 0, {1}, {1}, "IntStorage") + "e", "storage 0"},
      {kCall + "(NNNNNNtR", "in place of"},
  };
  for (const auto& [pickle, expected] : cases) {
    CAPTURE(pickle.substr(0, 300), expected);
    std::string message;
    try {
      parse(pickle);
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    REQUIRE_THAT(message, Contains("memory: ") && Contains(expected));
  }
}

TEST_CASE("pickles that would fill the memory are errors") {
  std::string nested, memos, doubling = "]q\x01";  // each tuple holds the one before twice
  for (int i = 0; i < 100000; ++i) nested += "]";
  nested += std::string(99999, 'a');
  REQUIRE_THROWS_WITH(parse(nested), Contains("deep"));
  REQUIRE_THROWS_WITH(parse(std::string((1 << 20) + 1, 'N')), Contains("more than 1048576 values"));
  for (int i = 0; i < 40; ++i) doubling += "h\x01\x86q\x01";
  REQUIRE_THROWS_WITH(parse(doubling), Contains("more than 1048576 values"));
  std::string texts = "](X" + std::string("\0\0\1\0", 4) + std::string(65536, 'x') + "q\x01";
  for (int i = 0; i < 5000; ++i) texts += "h\x01";
  REQUIRE_THROWS_WITH(parse(texts + "e"), Contains("64 MiB of text"));
  for (int i = 0; i < 1000; ++i) memos += "Nr" + std::string(2, '\xff') + std::string{static_cast<char>(i)} + '\xff';
  REQUIRE(parse(memos).kind() == std::string("none"));  // entries near 2^32 cost no more than others
  std::string copies = "](";                            // every one a copy by strides of a storage of 96 KiB
  for (int i = 0; i < 500; ++i) copies += tensor(24576, 0, {2, 12287}, {1, 2});
  REQUIRE_THROWS_WITH(parse(copies + "e", std::string(4 * 24576, '\0')), Contains("far more memory"));
}

TEST_CASE("a tensor of five dimensions is an error only when it is used") {
  const PthValue value = parse(tensor(24, 0, {1, 2, 3, 2, 2}, {24, 12, 4, 2, 1}));
  REQUIRE_THROWS_WITH(value.get<PthTensor>()->view(), Contains("5 dimensions"));
}

TEST_CASE("every truncation of a .pth file is an error, every flipped bit an error or a valid file") {
  const TemporaryFolder folder;
  const std::int32_t values[] = {1, 2, 3};
  const std::vector<NamedView> tensors = {{"a", view_of(values, {3})}, {"b", view_of(values, {1, 2})}};
  write_pth(folder / "a", tensors);
  const std::string bytes = read_text_file(folder / "a");
  REQUIRE(opens(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) REQUIRE(!opens(bytes.substr(0, size)));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    opens(flipped);
  }
}

TEST_CASE("damaged or foreign archives are errors that say what is wrong") {
  std::string bytes = file_of(tensor(24, 0, {24}, {1}), kStorage);
  REQUIRE(opens(bytes));
  bytes[bytes.find(kStorage)] = '\2';
  REQUIRE_THROWS_WITH(parse_pth(bytes_of(bytes), "memory"), Contains("memory: member 'data/0'") && Contains("CRC"));
  bytes = file_of(tensor(24, 0, {24}, {1}), kStorage, "big");
  REQUIRE_THROWS_WITH(parse_pth(bytes_of(bytes), "memory"), Contains("'big'"));
  REQUIRE_THROWS_WITH(parse_pth(bytes_of("\x80\x02\x8a\x0al\xfc\x9c"), "memory"), Contains("before version 1.6"));
  REQUIRE_THROWS_WITH(parse_pth({}, "memory"), Contains("memory: no member"));
  REQUIRE_THROWS_WITH(parse_pth(bytes_of("some text"), "memory"), Contains("memory: no zip archive"));

  for (const std::string name : {"data.pkl", "a/b/data.pkl", "a/data.pk"}) {
    std::string archive;
    ZipWriter zip(into(archive));
    zip.add(name, "\x80\x02N.");
    zip.finish();
    REQUIRE_THROWS_WITH(parse_pth(bytes_of(archive), "memory"), Contains("memory: ") && Contains("data.pkl"));
  }
  const std::string missing = kCall + "((" + text("storage") + "ctorch\nFloatStorage\n" + text("1") + text("cpu") +
                              "K\x01tQK" + std::string(1, '\0') + "))\x89}tR";
  REQUIRE_THROWS_WITH(parse(missing), Contains("'data/1': missing"));
}

TEST_CASE("writing a .pth needs unique names and data") {
  const TemporaryFolder folder;
  const float value = 1;
  const std::vector<NamedView> twice = {{"a", view_of(&value, {1})}, {"a", view_of(&value, {1})}},
                               no_data = {{"a", ConstView(nullptr, DType::f32, {1})}};
  REQUIRE_THROWS_WITH(write_pth(folder / "a.pth", twice), Contains("a.pth") && Contains("two tensors"));
  REQUIRE_THROWS_WITH(write_pth(folder / "a.pth", no_data), Contains("no data"));
  REQUIRE(folder.entries() == 0);
}
