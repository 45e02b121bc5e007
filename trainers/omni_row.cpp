#include "trainers/omni_row.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "engine/npy.h"
#include "models/json_text.h"
#include "models/talker.h"
#include "trainers/samples.h"

namespace omni {
namespace {

using Json = nlohmann::ordered_json;

// A container by its extension and by the bytes that it begins with; a blank stands for any byte.
struct Container {
  std::string_view extension, magic;
};
constexpr std::array<Container, 4> kRecordings = {
    {{"wav", "RIFF    WAVE"}, {"flac", "fLaC"}, {"ogg", "OggS"}, {"mp3", "ID3"}}};
constexpr std::array<Container, 4> kPictures = {
    {{"jpg", "\xff\xd8\xff"}, {"jpeg", "\xff\xd8\xff"}, {"png", "\x89PNG"}, {"webp", "RIFF    WEBP"}}};

const Container* find(std::span<const Container> containers, std::string_view extension) {
  const auto found =
      std::find_if(containers.begin(), containers.end(), [&](const auto& one) { return one.extension == extension; });
  return found == containers.end() ? nullptr : &*found;
}

bool fits(const Container& container, std::string_view bytes) {
  // An MP3 without tags begins with the eleven set bits of a frame.
  if (container.extension == "mp3" && bytes.size() >= 2 && bytes[0] == '\xff' && (bytes[1] & 0xe0) == 0xe0) return true;
  const std::string_view magic = container.magic;
  if (bytes.size() < magic.size()) return false;
  return std::equal(magic.begin(), magic.end(), bytes.begin(), [](char a, char b) { return a == ' ' || a == b; });
}

std::string hex_of(std::string_view bytes) {
  std::string out;
  char text[4];
  for (const char c : bytes.substr(0, 4)) {
    std::snprintf(text, sizeof text, "%s%02x", out.empty() ? "" : " ", static_cast<unsigned>(c) & 0xff);
    out += text;
  }
  return bytes.empty() ? "nothing" : "bytes " + out;
}

struct Field {
  enum Kind { json, answer, reference, speaker, question, image, recording, picture, unknown };
  Kind kind = unknown;
  std::size_t turn = 0;                  // of an answer, a question or its recording
  const Container* container = nullptr;  // of a recording or a picture
};

Field numbered_field(std::string_view name) {
  const std::size_t dot = name.find('.'), second = name.find('.', dot + 1);
  if (dot == std::string_view::npos || second == std::string_view::npos) return {};
  const std::string_view what = name.substr(0, dot), digits = name.substr(dot + 1, second - dot - 1),
                         extension = name.substr(second + 1);
  std::uint32_t turn = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), turn);
  if (error != std::errc() || std::to_string(turn) != digits) return {};  // one spelling per turn: no "00"
  if (what == "answer" && extension == "npy") return {Field::answer, turn};
  if (what != "question") return {};
  if (extension == "npy") return {Field::question, turn};
  if (const Container* container = find(kRecordings, extension)) return {Field::recording, turn, container};
  return {};
}

Field field_of(std::string_view name) {
  if (name == "json") return {Field::json};
  if (name == "reference.npy") return {Field::reference};
  if (name == "speaker.npy") return {Field::speaker};
  if (name == "image.npy") return {Field::image};
  if (name.starts_with("image."))
    if (const Container* container = find(kPictures, name.substr(6))) return {Field::picture, 0, container};
  return numbered_field(name);
}

[[noreturn]] void fail(const char* kind, const std::string& where, const std::string& expected,
                       const std::string& found) {
  throw BadSample(kind, where + ": expected " + expected + ", found " + found);
}

class RowParser {
 public:
  RowParser(std::span<const ShardMember> members, const OmniRowLimits& limits, OmniRowProblems* problems)
      : members_(members), limits_(limits), problems_(problems) {}

  OmniRow parse() {
    attempt([&] { parse_messages(); });
    for (const ShardMember& member : members_) attempt([&] { parse_member(member); });
    if (problems_) check_containers();
    return std::move(row_);
  }

 private:
  // Without a list of problems the first one ends it all.
  template <class Body>
  void attempt(const Body& body) {
    try {
      body();
    } catch (const BadSample& error) {
      if (!problems_) throw;
      problems_->errors.emplace_back(error.what());
    }
  }

  void parse_messages() {
    const auto member =
        std::find_if(members_.begin(), members_.end(), [](const ShardMember& one) { return one.name == "json"; });
    if (member == members_.end()) throw BadSample("missing member", "json: expected this member, found none");
    const Json object = json_of(member->bytes, "json");
    if (!object.is_object()) fail("wrong type", "json", "an object", describe_json(object));
    const auto found = object.find("conversations");
    if (found == object.end()) fail("missing field", "json: conversations", "a list", "nothing");
    // The original's files hold the list as JSON text.
    const Json messages =
        found->is_string() ? json_of(found->get_ref<const std::string&>(), "json: conversations") : *found;
    if (!messages.is_array()) fail("wrong type", "json: conversations", "a list", describe_json(messages));
    row_.messages = Json::array();
    for (const Json& message : messages) attempt([&] { parse_message(message); });
    complete_ = row_.messages.size() == messages.size();
    if (assistants_ == 0 && complete_)
      fail("no answer", "json: conversations", "a turn of the assistant",
           messages.empty() ? "an empty list" : "none in " + std::to_string(messages.size()) + " turns");
  }

  static Json json_of(std::string_view text, const std::string& where) {
    try {
      return parse_json<Json>(text, where);
    } catch (const std::runtime_error& error) {
      throw BadSample("not valid JSON", error.what());
    }
  }

  void parse_message(const Json& message) {
    const std::string where = "json: conversations[" + std::to_string(turn_++) + "]";
    if (!message.is_object()) fail("wrong type", where, "an object with role and content", describe_json(message));
    Json copy = Json::object();
    for (const char* key : {"role", "content"}) {
      const auto value = message.find(key);
      if (value == message.end() || !value->is_string())
        fail("wrong type", where + "." + key, "a text", value == message.end() ? "nothing" : describe_json(*value));
      copy[key] = *value;
    }
    const std::string& role = copy["role"].get_ref<const std::string&>();
    if (role != "user" && role != "assistant" && role != "system" && role != "tool")
      fail("wrong role", where + ".role", "system, user, assistant or tool", describe_json(copy["role"]));
    users_ += role == "user";
    assistants_ += role == "assistant";
    marked_ = marked_ || copy["content"].get_ref<const std::string&>().find(kImageMarker) != std::string::npos;
    row_.messages.push_back(std::move(copy));
  }

  void parse_member(const ShardMember& member) {
    const Field field = field_of(member.name);
    if (complete_ && (field.kind == Field::answer || field.kind == Field::question || field.kind == Field::recording)) {
      const std::size_t turns = field.kind == Field::answer ? assistants_ : users_;
      if (field.turn >= turns)
        fail("no such turn", member.name, "a turn below " + std::to_string(turns),
             "turn " + std::to_string(field.turn));
    }
    switch (field.kind) {
      case Field::json:
        return;
      case Field::answer:
        return put(row_.answer_codes, field.turn, assistants_, codes_of(member));
      case Field::reference:
        row_.reference_codes = codes_of(member);
        return;
      case Field::speaker:
        row_.speaker = floats_of(array_of(member), {limits_.speaker});
        return;
      case Field::question: {
        const Npy array = array_of(member);
        const std::int64_t rows = array.shape.rank() == 2 ? array.shape[0] : 0;
        return put(row_.questions, field.turn, users_, {rows, floats_of(array, {rows, limits_.audio_width})});
      }
      case Field::image:
        row_.image = {limits_.image_rows, floats_of(array_of(member), {limits_.image_rows, limits_.image_width})};
        return;
      case Field::recording:
      case Field::picture:
        return check_container(member, field);
      case Field::unknown:
        if (problems_) fail("unknown member", member.name, "a member of a sample", "an unknown name");
    }
  }

  // The lists of a row have an entry per turn, or none at all. Turns that the messages do not have were refused before,
  // or the messages could not be read and the row is of no use.
  template <class T>
  static void put(std::vector<T>& list, std::size_t turn, std::size_t turns, T value) {
    if (turn >= turns) return;
    list.resize(turns);
    list[turn] = std::move(value);
  }

  Npy array_of(const ShardMember& member) const {
    try {
      return parse_npy(std::as_bytes(std::span(member.bytes)), member.name);
    } catch (const std::runtime_error& error) {
      throw BadSample("broken .npy", error.what());
    }
  }

  std::vector<std::int64_t> codes_of(const ShardMember& member) const {
    const Npy array = array_of(member);
    if (array.is_float() || array.shape.rank() != 2 || array.shape[1] != kCodebooks)
      fail("wrong shape", member.name, "integer codes [frames, 8]",
           std::string(name_of(array.type)) + " " + array.shape.text());
    std::vector<std::int64_t> codes = array.integers();
    const auto wrong = [&](std::int64_t code) { return code < 0 || code >= limits_.codes; };
    report_first(member.name, codes, wrong, "codes from 0 to " + std::to_string(limits_.codes - 1), kCodebooks);
    return codes;
  }

  static std::vector<float> floats_of(const Npy& array, const Shape& shape) {
    if (!array.is_float() || !(array.shape == shape))
      fail("wrong shape", array.name, "floats " + shape.text(),
           std::string(name_of(array.type)) + " " + array.shape.text());
    std::vector<float> values = array.floats();
    report_first(
        array.name, values, [](float value) { return !std::isfinite(value); }, "finite numbers", shape.width());
    return values;
  }

  // Throws if a value of the matrix is wrong, naming the first one and how many there are.
  template <class T, class Wrong>
  static void report_first(const std::string& name, const std::vector<T>& values, const Wrong& wrong,
                           const std::string& expected, std::int64_t width) {
    const auto first = std::find_if(values.begin(), values.end(), wrong);
    if (first == values.end()) return;
    const auto count = std::count_if(first, values.end(), wrong), at = first - values.begin();
    fail("wrong value", name, expected,
         std::to_string(*first) + " at [" + std::to_string(at / width) + ", " + std::to_string(at % width) + "]" +
             (count > 1 ? " and " + std::to_string(count - 1) + " more" : ""));
  }

  void check_container(const ShardMember& member, const Field& field) {
    if (!problems_) return;
    if (!fits(*field.container, member.bytes))
      fail("wrong container", member.name, "a file of this kind", hex_of(member.bytes));
  }

  void check_containers() {
    std::vector<std::string> pictures;
    std::vector<std::size_t> recorded;
    for (const ShardMember& member : members_) {
      const Field field = field_of(member.name);
      if (field.kind == Field::picture) pictures.push_back(member.name);
      if (field.kind != Field::recording) continue;
      if (std::find(recorded.begin(), recorded.end(), field.turn) != recorded.end())
        problems_->errors.push_back(member.name + ": expected one recording of a turn, found another");
      recorded.push_back(field.turn);
    }
    if (pictures.size() > 1)
      problems_->errors.push_back(pictures[1] + ": expected one picture, found " + pictures[0] + " as well");
    if (!complete_) return;
    const bool pictured = !pictures.empty() || row_.image.rows > 0;
    if (marked_ && !pictured)
      problems_->warnings.emplace_back("json: conversations: expected a picture for <image>, found none");
    if (pictured && !marked_)
      problems_->warnings.emplace_back("json: conversations: expected <image> for the picture, found none");
  }

  std::span<const ShardMember> members_;
  const OmniRowLimits& limits_;
  OmniRowProblems* problems_;
  OmniRow row_;
  std::size_t turn_ = 0, users_ = 0, assistants_ = 0;
  bool complete_ = false;  // all messages are understood: the turns are known
  bool marked_ = false;    // one of them has a place for a picture
};

}  // namespace

OmniRow parse_omni_row(std::span<const ShardMember> members, const OmniRowLimits& limits) {
  return RowParser(members, limits, nullptr).parse();
}

OmniRow check_omni_row(std::span<const ShardMember> members, const OmniRowLimits& limits, OmniRowProblems& problems) {
  return RowParser(members, limits, &problems).parse();
}

std::string content_of(const Json& message) {
  const auto found = message.find("content");
  return found != message.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t count_role(const Json& messages, std::string_view role) {
  return std::count_if(messages.begin(), messages.end(), [&](const Json& message) { return message["role"] == role; });
}

bool is_read_by_omni_row(std::string_view name) {
  const Field::Kind kind = field_of(name).kind;
  return kind != Field::unknown && kind != Field::recording && kind != Field::picture;
}

}  // namespace omni
