#include "trainers/tensorboard.h"

#include <bit>
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <vector>

#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

using Catch::Matchers::Contains;
using Scalars = std::vector<std::pair<std::string, double>>;

std::uint64_t little_endian(std::string_view bytes, std::size_t count) {
  std::uint64_t out = 0;
  for (std::size_t i = 0; i < count; ++i) out |= std::uint64_t{static_cast<unsigned char>(bytes.at(i))} << 8 * i;
  return out;
}

std::uint64_t masked(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15 | crc << 17) + 0xa282ead8U) & 0xffffffffU;
}

std::vector<std::string> records(std::string_view file) {
  std::vector<std::string> out;
  while (!file.empty()) {
    const std::uint64_t length = little_endian(file, 8);
    REQUIRE(little_endian(file.substr(8), 4) == masked(file.substr(0, 8)));
    REQUIRE(file.size() >= 12 + length + 4);
    const std::string_view data = file.substr(12, length);
    REQUIRE(little_endian(file.substr(12 + length), 4) == masked(data));
    out.emplace_back(data);
    file.remove_prefix(12 + length + 4);
  }
  return out;
}

// A protobuf message: bytes of a length-delimited field as they are, numbers as their bits.
struct Message {
  std::multimap<unsigned, std::string> bytes;
  std::map<unsigned, std::uint64_t> numbers;

  explicit Message(std::string_view data) {
    const auto varint = [&] {
      std::uint64_t out = 0;
      for (int shift = 0;; shift += 7) {
        REQUIRE_FALSE(data.empty());
        const auto byte = static_cast<unsigned char>(data[0]);
        data.remove_prefix(1);
        out |= std::uint64_t{byte & 0x7fU} << shift;
        if (byte < 0x80) return out;
      }
    };
    while (!data.empty()) {
      const std::uint64_t key = varint();
      const auto field = static_cast<unsigned>(key >> 3);
      if (key % 8 == 0) {
        numbers[field] = varint();
        continue;
      }
      const std::size_t length = key % 8 == 1 ? 8 : key % 8 == 5 ? 4 : varint();
      REQUIRE(data.size() >= length);
      if (key % 8 == 2)
        bytes.emplace(field, data.substr(0, length));
      else
        numbers[field] = little_endian(data, length);
      data.remove_prefix(length);
    }
  }
};

TEST_CASE("crc32c has the published values") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283);
  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
}

TEST_CASE("an event file holds its version, the start of the session and one event per step") {
  const TemporaryFolder folder;
  TensorBoardFile file(folder / "made/on/demand", 300);
  const Scalars scalars = {{"loss", 2.5},
                           {"gr\xc3\xb6\xc3\x9f"
                            "e",
                            -0.1}};
  file.write(300, 1234.5, scalars);
  file.write(std::int64_t{1} << 40, 1235, Scalars{});
  file.flush();

  CHECK_THAT(file.path().filename().string(), Contains("events.out.tfevents.1") || Contains("events.out.tfevents.2"));
  const std::vector<std::string> all = records(read_text_file(file.path()));
  REQUIRE(all.size() == 4);
  CHECK(Message(all[0]).bytes.find(3)->second == "brain.Event:2");
  CHECK(Message(all[1]).numbers.at(2) == 300);
  CHECK(Message(Message(all[1]).bytes.find(7)->second).numbers.at(1) == 1);

  const Message event(all[2]);
  CHECK(std::bit_cast<double>(event.numbers.at(1)) == 1234.5);
  CHECK(event.numbers.at(2) == 300);
  const Message summary(event.bytes.find(5)->second);
  REQUIRE(summary.bytes.count(1) == 2);
  auto value = summary.bytes.find(1);
  for (const auto& [tag, number] : scalars) {
    const Message message((value++)->second);
    CHECK(message.bytes.find(1)->second == tag);
    CHECK(std::bit_cast<float>(static_cast<std::uint32_t>(message.numbers.at(2))) == static_cast<float>(number));
  }
  CHECK(Message(all[3]).numbers.at(2) == std::uint64_t{1} << 40);
}

TEST_CASE("a later event file sorts behind all others, whatever the clock says") {
  const TemporaryFolder folder;
  write_text_file(folder / "events.out.tfevents.4000000000.elsewhere", "");
  write_text_file(folder / "events.out.tfevents.no-number", "");
  const TensorBoardFile first(folder.path(), 1), second(folder.path(), 5), third(folder.path(), 9);
  CHECK(first.path().filename().string().starts_with("events.out.tfevents.4000000001."));
  CHECK(second.path().filename().string().starts_with("events.out.tfevents.4000000002."));
  CHECK(third.path().filename().string().starts_with("events.out.tfevents.4000000003."));
}

TEST_CASE("a folder that cannot be made is an error that names it") {
  const TemporaryFolder folder;
  write_text_file(folder / "file", "");
  CHECK_THROWS_WITH(TensorBoardFile(folder / "file", 1), Contains((folder / "file").string()));
}

}  // namespace
}  // namespace omni
