// The tokenizer on small vocabularies made here: the 256 bytes in order (id = byte), then the merges in order, then
// added tokens. tests/golden compares with the original libraries.

#include "models/tokenizer.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "models/pre_tokenizer.h"
#include "models/utf8.h"

namespace omni {
namespace {

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

// A byte as tokenizer.json writes it.
std::string stand_in(int byte) {
  int code = byte;
  if (byte <= 32) code = 0x100 + byte;
  if (byte >= 127 && byte <= 160) code = 0x100 + 33 + byte - 127;
  if (byte == 173) code = 0x100 + 67;
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

std::string stand_ins(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += stand_in(static_cast<unsigned char>(byte));
  return text;
}

Json document(const std::vector<std::pair<std::string, std::string>>& merges = {},
              const std::vector<std::pair<std::string, bool>>& added = {}) {
  Json file = {
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"added_tokens", Json::array()},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"vocab", Json::object()}, {"merges", Json::array()}}}};
  Json& vocab = file["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) vocab[stand_in(byte)] = byte;
  for (const auto& [left, right] : merges) {
    vocab.emplace(stand_ins(left + right), vocab.size());
    file["model"]["merges"].push_back({stand_ins(left), stand_ins(right)});
  }
  for (const auto& [text, special] : added)
    file["added_tokens"].push_back(
        {{"id", vocab.size() + file["added_tokens"].size()}, {"content", text}, {"special", special}});
  return file;
}

Tokenizer make(const Json& file, const std::string& config = "") {
  return Tokenizer(parse_tokenizer_files(file.dump(), config, "dir/tokenizer.json"));
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string_view> views;
  PreTokenizer().split(text, views);
  return {views.begin(), views.end()};
}

TEST_CASE("pre-tokenizer: words, numbers, marks, contractions") {
  using Pieces = std::vector<std::string>;
  CHECK(pieces("").empty());
  CHECK(pieces("Hello world 42!") == Pieces{"Hello", " world", " 42", "!"});
  CHECK(pieces("it's they'LL we'llo") == Pieces{"it", "'s", " they", "'", "LL", " we", "'ll", "o"});
  CHECK(pieces(" 's") == Pieces{" '", "s"});
  CHECK(pieces("\xCC\x81"
               "e\xCC\x81") == Pieces{"\xCC\x81", "e", "\xCC\x81"});  // a combining mark is no letter
  CHECK(pieces("x²½Ⅷ") == Pieces{"x", "²½Ⅷ"});
  CHECK(pieces("你好，世界") == Pieces{"你好", "，", "世界"});
}

TEST_CASE("pre-tokenizer: blanks are Unicode White_Space") {
  using Pieces = std::vector<std::string>;
  CHECK(pieces("a  b") == Pieces{"a", " ", " b"});
  CHECK(pieces("a \n\tb") == Pieces{"a", " \n", "\t", "b"});
  CHECK(pieces("a  ") == Pieces{"a", "  "});
  CHECK(pieces(" \n \n") == Pieces{" \n \n"});
  for (const std::string blank : {"\t", "\v", "\f", "\r", "\u0085", "\u00A0", "\u1680", "\u2000", "\u200A", "\u2028",
                                  "\u2029", "\u202F", "\u205F", "\u3000"}) {
    CAPTURE(blank);
    CHECK(pieces("." + blank + blank + ".") == Pieces{".", blank, blank, "."});
  }
  for (const std::string other : {"\u001C", "\u001F", "\u180E", "\u200B", "\u2060", "\uFEFF"}) {
    CAPTURE(other);
    CHECK(pieces("." + other + other + ".") == Pieces{"." + other + other + "."});
  }
}

TEST_CASE("pre-tokenizer: pieces of any text are the text, also very long ones") {
  for (const char* unit : {" ", "a", "7", "!", "\n", "你", "a ", "'s"}) {
    std::string text;
    while (text.size() < 100'000) text += unit;
    std::string together;
    for (const std::string& piece : pieces(text)) together += piece;
    CHECK(together == text);
  }
}

TEST_CASE("bpe: lowest rank first, leftmost of equals") {
  const Tokenizer tokenizer = make(document({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"x", "x"}, {"xx", "xx"}}));
  CHECK(tokenizer.encode("abc") == Ids{258});  // bc first, though ab stands to its left
  CHECK(tokenizer.encode("ab") == Ids{257});
  CHECK(tokenizer.encode("abab") == Ids{257, 257});
  CHECK(tokenizer.encode("xxx") == Ids{259, 'x'});
  CHECK(tokenizer.encode("xxxxxxx") == Ids{260, 259, 'x'});
  CHECK(tokenizer.encode("a b") == Ids{'a', ' ', 'b'});  // no merge across pieces
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.vocab_size() == 261);
}

// The definition, without a queue: look for the best pair, merge it, start again.
Ids merge_slowly(Ids ids, const std::vector<Merge>& merges) {
  for (;;) {
    std::size_t best = merges.size(), where = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      for (std::size_t rank = 0; rank < best; ++rank)
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) best = rank, where = i;
    if (best == merges.size()) return ids;
    ids[where] = merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

TEST_CASE("bpe: agrees with the definition on random merges") {
  std::mt19937 random(1);
  const auto below = [&](std::int32_t n) { return static_cast<std::int32_t>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 20; ++round) {
    std::vector<Merge> merges;  // in any order: a result may have a lower rank than what it is made of
    for (std::int32_t id = 256; id < 290; ++id) {
      const auto part = [&] { return below(3) > 0 ? 'a' + below(3) : 256 + below(34); };
      const Merge merge{part(), part(), id};
      const auto same = [&](const Merge& m) { return m.left == merge.left && m.right == merge.right; };
      if (std::none_of(merges.begin(), merges.end(), same)) merges.push_back(merge);
    }
    std::array<std::int32_t, 256> bytes;
    for (int i = 0; i < 256; ++i) bytes[static_cast<std::size_t>(i)] = i;
    const Bpe bpe(bytes, merges);
    for (const int length : {0, 1, 2, 3, 17, 64, 65, 200}) {
      std::string text;
      for (int i = 0; i < length; ++i) text += static_cast<char>('a' + below(3));
      Ids ids;
      bpe.encode(text, ids);
      REQUIRE(ids == merge_slowly(Ids(text.begin(), text.end()), merges));
    }
  }
}

TEST_CASE("tokenizer: both forms of merges") {
  Json file = document({{"l", "o"}, {" ", "lo"}});
  const Tokenizer lists = make(file);
  for (Json& merge : file["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const Tokenizer texts = make(file);
  CHECK(lists.encode("lo lo") == Ids{256, 257});
  CHECK(texts.encode("lo lo") == Ids{256, 257});
}

TEST_CASE("tokenizer: added tokens") {
  const Tokenizer tokenizer =
      make(document({{"a", "b"}}, {{"<s>", true}, {"<t>", false}, {"<s>x", false}, {"你", true}}));
  CHECK(tokenizer.encode("<s><t><s>x") == Ids{257, 258, 259});  // neighbours; the longest of those that begin alike
  CHECK(tokenizer.encode("ab<s>ab <t> ab") == Ids{256, 257, 256, ' ', 258, ' ', 256});
  CHECK(tokenizer.encode("a<s>b") == Ids{'a', 257, 'b'});
  CHECK(tokenizer.encode("<s") == Ids{'<', 's'});
  CHECK(tokenizer.encode("<<s>>") == Ids{'<', 257, '>'});
  CHECK(tokenizer.encode("你") == Ids{260});
  CHECK(tokenizer.decode(Ids{257, 256, 258, 260}) == "<s>ab<t>你");
  CHECK(tokenizer.decode(Ids{257, 256, 258, 260}, true) == "ab<t>");
  CHECK(tokenizer.token_id("<s>") == 257);
  CHECK(tokenizer.token_id("ab") == 256);
  CHECK(tokenizer.token_id("\n") == '\n');
  CHECK_FALSE(tokenizer.token_id("abc"));
  CHECK(tokenizer.is_special(257));
  CHECK_FALSE(tokenizer.is_special(258));
  CHECK(tokenizer.vocab_size() == 261);
}

TEST_CASE("tokenizer: a moved tokenizer still works") {
  Tokenizer first = make(document({{"a", "b"}}, {{"<s>", true}}));
  const Tokenizer second = std::move(first);
  CHECK(second.encode("ab<s>") == Ids{256, 257});
  CHECK(second.token_id("<s>") == 257);
}

TEST_CASE("tokenizer: bytes that are not UTF-8 become U+FFFD") {
  const std::string replacement(kReplacementCharacter);
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFF"
       "b",
       "a\uFFFDb"},
      {"\xC0\x80", "\uFFFD\uFFFD"},  // overlong
      {"\xE4\xBD", "\uFFFD"},        // cut off: one part
      {"\xE4\xBD"
       "A",
       "\uFFFDA"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},  // a surrogate
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // beyond U+10FFFF
      {"\x80\xBF", "\uFFFD\uFFFD"},
      {"\xF0\x9F\x98\x80", "😀"},
      {std::string("\0", 1), std::string("\0", 1)},
  };
  const Tokenizer tokenizer = make(document());
  for (const auto& [bytes, text] : cases) {
    CHECK(to_utf8(bytes) == text);
    CHECK(is_utf8(bytes) == (bytes == text));
    CHECK(tokenizer.encode(bytes) == tokenizer.encode(text));
    CHECK(tokenizer.decode(tokenizer.encode(bytes)) == text);
    Ids byte_ids;
    for (const char byte : bytes) byte_ids.push_back(static_cast<unsigned char>(byte));
    CHECK(tokenizer.decode(byte_ids) == text);
  }
}

TEST_CASE("tokenizer: streaming decode equals full decode") {
  const Tokenizer tokenizer = make(document({{"\xE4", "\xBD"}, {"\x98\x80", "!"}, {"\x98", "\x80"}}, {{"<s>", true}}));
  std::mt19937 random(2);
  const int interesting[] = {'a', 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xED, 0xFF, 0xC2, 256, 257, 258, 259};
  for (int round = 0; round < 2000; ++round) {
    Ids ids(random() % 12);
    for (auto& id : ids) id = interesting[random() % std::size(interesting)];
    for (const bool skip_special : {false, true}) {
      StreamingDecoder stream(tokenizer, skip_special);
      std::string text;
      for (const auto id : ids) {
        const std::string part = stream.push(id);
        REQUIRE(is_utf8(part));
        text += part;
      }
      REQUIRE(text + stream.finish() == tokenizer.decode(ids, skip_special));
      REQUIRE(stream.finish().empty());
    }
  }
  StreamingDecoder stream(tokenizer);
  CHECK(stream.push(0xE4).empty());
  CHECK(stream.push(0xBD).empty());
  CHECK(stream.push(0xA0) == "你");
}

TEST_CASE("tokenizer: several threads encode at once") {
  const Json file = document({{"a", "b"}, {"ab", "ab"}, {" ", "ab"}}, {{"<s>", true}});
  const Tokenizer tokenizer = make(file), alone = make(file);
  std::mt19937 random(3);
  std::vector<std::string> texts(500);
  for (std::string& text : texts)
    for (int i = 0; i < 40; ++i) text += std::vector<std::string>{"ab", " ", "ba", "<s>", "你"}[random() % 5];
  std::vector<Ids> expected;
  for (const std::string& text : texts) expected.push_back(alone.encode(text));
  std::vector<std::vector<Ids>> found(4);
  std::vector<std::thread> threads;
  for (auto& mine : found)
    threads.emplace_back([&] {
      for (const std::string& text : texts) mine.push_back(tokenizer.encode(text));
    });
  for (auto& thread : threads) thread.join();
  for (const auto& mine : found) CHECK(mine == expected);
}

TEST_CASE("tokenizer: unknown ids and missing named tokens") {
  Json file = document({}, {{"<s>", true}});
  file["added_tokens"][0]["id"] = 300;  // 256..299 are unused
  const Tokenizer tokenizer = make(file);
  for (const int id : {-1, 256, 299, 301, INT32_MAX}) {
    CHECK_THROWS_WITH(tokenizer.decode(Ids{id}),
                      Catch::Contains("dir/tokenizer.json") && Catch::Contains(std::to_string(id)));
    CHECK_THROWS_AS(StreamingDecoder(tokenizer).push(id), std::runtime_error);
  }
  CHECK(tokenizer.decode(Ids{300}) == "<s>");
  CHECK_THROWS_WITH(tokenizer.bos_id(), Catch::Contains("bos_token"));
}

TEST_CASE("tokenizer: tokenizer_config.json") {
  const Json file = document({}, {{"<s>", true}, {"</s>", true}});
  const Tokenizer tokenizer = make(file, R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null,
      "added_tokens_decoder": {"256": {"content": "<s>"}}})");
  CHECK(tokenizer.bos_id() == 256);
  CHECK(tokenizer.eos_id() == 257);
  CHECK_THROWS_WITH(tokenizer.pad_id(), Catch::Contains("pad_token"));
  const auto fails = [&](const char* config, const char* field) {
    CHECK_THROWS_WITH(make(file, config), Catch::Contains("dir/tokenizer_config.json") && Catch::Contains(field));
  };
  fails(R"({"bos_token": "<x>"})", "bos_token");
  fails(R"({"eos_token": 5})", "eos_token");
  fails(R"({"add_prefix_space": true})", "add_prefix_space");
  fails(R"({"added_tokens_decoder": {"257": {"content": "<s>"}}})", "257");
  fails(R"({"added_tokens_decoder": {"7x": {"content": "<s>"}}})", "7x");
}

TEST_CASE("tokenizer: what is not implemented or wrong is refused by name") {
  const auto fails = [](const char* pointer, const Json& value) {
    Json file = document({{"a", "b"}}, {{"<s>", true}, {"<t>", true}});
    file[Json::json_pointer(pointer)] = value;
    const std::string field = std::string(pointer).substr(std::string(pointer).rfind('/') + 1);
    CAPTURE(pointer, value.dump());
    CHECK_THROWS_WITH(make(file), Catch::StartsWith("dir/tokenizer.json: ") && Catch::Contains(field) &&
                                      Catch::Contains("expected") && Catch::Contains("found"));
  };
  fails("/normalizer", {{"type", "NFC"}});
  fails("/truncation", {{"max_length", 5}});
  fails("/padding", Json::object());
  fails("/pre_tokenizer", nullptr);
  fails("/pre_tokenizer/type", "Split");
  fails("/pre_tokenizer/add_prefix_space", true);
  fails("/pre_tokenizer/use_regex", false);
  fails("/post_processor", {{"type", "TemplateProcessing"}});
  fails("/decoder", {{"type", "WordPiece"}});
  fails("/model", 3);
  fails("/model/type", "Unigram");
  fails("/model/dropout", 0.1);
  fails("/model/byte_fallback", true);
  fails("/model/ignore_merges", true);
  fails("/model/continuing_subword_prefix", "##");
  fails("/model/end_of_word_suffix", "</w>");
  fails("/model/vocab", Json::array());
  fails("/model/vocab/a", -1);
  fails("/model/vocab/a", 98);  // the id of "b"
  fails("/model/vocab/a", 1e9);
  fails("/model/vocab", {{"a", 0}});
  fails("/model/merges", "a b");
  for (const Json& merge : {Json("ab"), Json("a b c"), Json(" a"), Json({"a"}), Json({"a", 1}), Json({"a", "c"})})
    fails("/model/merges", {merge});
  fails("/added_tokens/0/lstrip", true);
  fails("/added_tokens/0/rstrip", true);
  fails("/added_tokens/0/single_word", true);
  fails("/added_tokens/1/normalized", true);
  fails("/added_tokens/0/content", "");
  fails("/added_tokens/0", {{"id", 0xE9}, {"content", "é"}});  // stands for the byte E9
  fails("/added_tokens/0/id", 5);
  fails("/added_tokens/1/id", 257);
  fails("/added_tokens/0", "<s>");
  CHECK_THROWS_WITH(Tokenizer(parse_tokenizer_files("{", "", "t")), Catch::StartsWith("t: not valid JSON"));
  CHECK_THROWS_WITH(Tokenizer(parse_tokenizer_files(std::string(100'000, '['), "", "t")), Catch::Contains("deep"));
  CHECK_THROWS_WITH(Tokenizer::load("/does/not/exist"), Catch::Contains("/does/not/exist/tokenizer.json"));
}

}  // namespace
}  // namespace omni
