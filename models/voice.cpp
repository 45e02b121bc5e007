#include "models/voice.h"

#include <filesystem>
#include <stdexcept>
#include <vector>

#include "engine/safetensors.h"
#include "engine/suggest.h"
#include "kernels/instruction.h"
#include "models/talker.h"

namespace omni {
namespace {

// `where` opens error messages.
Voice checked_voice(const ConstView& ref_codes, const ConstView& spk_emb, const std::string& where) {
  if (!ref_codes && !spk_emb) throw std::runtime_error(where + ": expected ref_codes or spk_emb, found neither");
  if (ref_codes && (ref_codes.dtype != DType::i64 || ref_codes.shape.rank() != 2 || ref_codes.shape[0] != kCodebooks))
    throw std::runtime_error(where + ": ref_codes: expected i64 [8, frames], found " + Check::text(ref_codes));
  if (spk_emb && (spk_emb.dtype != DType::f32 || spk_emb.shape.rank() != 1))
    throw std::runtime_error(where + ": spk_emb: expected f32 [size], found " + Check::text(spk_emb));
  return {copy_of(ref_codes), copy_of(spk_emb)};
}

}  // namespace

Voice voice_of(const PthValue& voices, const std::string& name, const std::string& file) {
  const auto* dictionary = voices.get<PthValue::Dictionary>();
  if (!dictionary) throw std::runtime_error(file + ": expected a dictionary of voices, found a " + voices.kind());
  const PthValue* voice = voices.find(name);
  if (!voice) {
    std::vector<std::string> names;
    std::string listed;
    for (const PthValue::Item& item : *dictionary)
      if (const auto* key = item.key.get<std::string>()) {
        names.push_back(*key);
        listed += (listed.empty() ? "" : ", ") + *key;
      }
    throw std::runtime_error(file + ": no voice \"" + name + "\"" + did_you_mean(name, names) +
                             "; it has: " + (listed.empty() ? "none" : listed));
  }
  const std::string where = file + ": " + name;
  const auto tensor = [&](const char* key) {
    const PthValue* value = voice->find(key);
    if (!value || value->get<std::monostate>()) return ConstView();
    const auto* found = value->get<PthTensor>();
    if (!found) throw std::runtime_error(where + ": " + key + ": expected a tensor, found a " + value->kind());
    return found->view();
  };
  return checked_voice(tensor("ref_codes"), tensor("spk_emb"), where);
}

Voice load_voice(const std::string& voice) {
  if (std::filesystem::path(voice).extension() == ".safetensors") {
    const SafetensorsFile file(voice);
    const auto tensor = [&](const char* name) { return file.contains(name) ? file.at(name) : ConstView(); };
    return checked_voice(tensor("ref_codes"), tensor("spk_emb"), voice);
  }
  const std::size_t colon = voice.rfind(':');
  if (colon == std::string::npos || colon == 0)
    throw std::runtime_error("voice: expected FILE.safetensors or FILE.pt:NAME, found \"" + voice + "\"");
  const std::string file = voice.substr(0, colon);
  return voice_of(read_pth(file), voice.substr(colon + 1), file);
}

}  // namespace omni
