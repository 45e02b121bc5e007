#include "models/voice.h"

#include <catch2/catch.hpp>

#include "engine/safetensors.h"
#include "tests/support/numbers.h"
#include "tests/support/temporary_folder.h"

namespace omni {
namespace {

// A tensor as a file gives it. `memory` must outlive it.
PthValue tensor(const OwnedTensor& memory) {
  const View& view = memory.view();
  PthTensor out{.dtype = view.dtype, .sizes = {}, .data = {}};
  for (int i = 0; i < view.shape.rank(); ++i) out.sizes.push_back(view.shape[i]);
  out.data = std::shared_ptr<const std::byte>(std::shared_ptr<void>(), static_cast<const std::byte*>(view.data));
  return PthValue(out);
}

PthValue text(const std::string& value) { return PthValue(value); }

}  // namespace

TEST_CASE("a voice is found in a file of the original by its name") {
  const OwnedTensor codes = random_ids({8, 5}, 1, 2048), speaker = randn({192}, 2, DType::f32);
  const PthValue whole(PthValue::Dictionary{{text("ref_codes"), tensor(codes)}, {text("spk_emb"), tensor(speaker)}}),
      without_speaker(PthValue::Dictionary{{text("ref_codes"), tensor(codes)}, {text("spk_emb"), PthValue()}}),
      swapped(PthValue::Dictionary{{text("ref_codes"), tensor(speaker)}}), empty(PthValue::Dictionary{});
  const PthValue voices(PthValue::Dictionary{
      {text("serena"), whole}, {text("eric"), without_speaker}, {text("odd"), swapped}, {text("none"), empty}});
  const Voice serena = voice_of(voices, "serena", "v.pt"), eric = voice_of(voices, "eric", "v.pt");
  REQUIRE(same_bits(serena.ref_codes, codes));
  REQUIRE(same_bits(serena.spk_emb, speaker));
  REQUIRE(same_bits(eric.ref_codes, codes));
  REQUIRE_FALSE(eric.spk_emb.view());
  REQUIRE_THROWS_WITH(voice_of(voices, "serna", "v.pt"),
                      "v.pt: no voice \"serna\" (did you mean \"serena\"?); it has: serena, eric, odd, none");
  REQUIRE_THROWS_WITH(voice_of(voices, "odd", "v.pt"),
                      "v.pt: odd: ref_codes: expected i64 [8, frames], found f32 [192]");
  REQUIRE_THROWS_WITH(voice_of(voices, "none", "v.pt"), "v.pt: none: expected ref_codes or spk_emb, found neither");
  REQUIRE_THROWS_WITH(voice_of(text("x"), "none", "v.pt"), Catch::Contains("expected a dictionary of voices"));
}

TEST_CASE("a voice in a safetensors file") {
  const TemporaryFolder folder;
  const std::string path = (folder / "voice.safetensors").string();
  const OwnedTensor codes = random_ids({8, 5}, 1, 2048), speaker = randn({1, 192}, 2, DType::f32);
  write_safetensors(path, std::vector<NamedView>{{"ref_codes", codes}});
  REQUIRE(same_bits(load_voice(path).ref_codes, codes));
  REQUIRE_FALSE(load_voice(path).spk_emb.view());
  write_safetensors(path, std::vector<NamedView>{{"spk_emb", speaker}});
  REQUIRE_THROWS_WITH(load_voice(path), path + ": spk_emb: expected f32 [size], found f32 [1, 192]");
  REQUIRE_THROWS_WITH(load_voice("voices.pt"), "voice: expected FILE.safetensors or FILE.pt:NAME, found \"voices.pt\"");
  REQUIRE_THROWS_WITH(load_voice((folder / "nowhere.pt").string() + ":a"), Catch::Contains("nowhere.pt"));
}

}  // namespace omni
