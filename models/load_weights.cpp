#include "models/load_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>

#include "engine/suggest.h"

namespace omni {
namespace {

bool begins_with_any(const std::string& name, const std::vector<std::string>& beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](const std::string& beginning) { return name.starts_with(beginning); });
}

template <class T>
std::int64_t first_not_finite(const T* values, std::int64_t count) {
  std::atomic<std::int64_t> first{count};
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i)
    if (!std::isfinite(to_float(values[i]))) {
      std::int64_t known = first;
      while (i < known && !first.compare_exchange_weak(known, i)) {
      }
    }
  return first;
}

void copy_parameter(Device& device, const WeightSource& source, const std::string& name, const View& to) {
  const ConstView from = source.at(name);
  const auto fail = [&](const std::string& message) {
    throw std::runtime_error(source.path() + ": " + name + ": " + message);
  };
  if (!(from.shape == to.shape)) fail("expected shape " + to.shape.text() + ", found " + from.shape.text());
  copy_converted(device, from, to);  // refuses what is no floating-point format
  const auto check = [&]<class T>() {
    const std::int64_t bad = first_not_finite(from.as<T>(), from.count());
    if (bad < from.count())
      fail("expected finite numbers, element " + std::to_string(bad) + " is " +
           std::to_string(to_float(from.as<T>()[bad])));
  };
  if (from.dtype == DType::f16)
    check.template operator()<f16>();
  else
    dispatch(from.dtype, check);
}

void refuse_unknown(const ParameterStore& store, const WeightSource& source, const LoadRules& rules) {
  std::vector<std::string> known;
  for (const auto& [name, view] : store.named_masters()) known.push_back(name);
  if (rules.tied_head) known.emplace_back(kHead);
  std::vector<std::string> sorted = known;
  std::sort(sorted.begin(), sorted.end());
  for (const std::string& name : source.names())
    if (!std::binary_search(sorted.begin(), sorted.end(), name) && !begins_with_any(name, rules.others))
      throw std::runtime_error(source.path() + ": " + name + ": the model has no such tensor" +
                               did_you_mean(name, known));
}

}  // namespace

void load_parameters(ParameterStore& store, const WeightSource& source, const LoadRules& rules) {
  refuse_unknown(store, source, rules);
  for (const auto& [name, view] : store.named_masters()) {
    const bool is_tied = rules.tied_head && name == kEmbedding && source.contains(kHead);
    if (source.contains(name) || !(is_tied || begins_with_any(name, rules.may_miss)))
      copy_parameter(store.device(), source, name, view);
    if (is_tied) copy_parameter(store.device(), source, kHead, view);
  }
  store.refresh_copy();
}

}  // namespace omni
