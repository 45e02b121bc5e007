#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/philox.h"

namespace omni {
namespace {

// d(loss)/d(output) = weights * d(loss): an op that lives in the harness, as plain as can be.
struct WeightedSum {
  static constexpr const char* name = "weighted_sum";
  View y;  // [1], added to
  ConstView x, weights;

  void check(Check& that) const {
    that.operand("y", y, DType::f64, Shape{1});
    that.same("x", x);
    that.that(x.dtype == DType::f64, std::string("gradcheck computes in f64, found ") + Check::text(x));
  }
  Work work() const { return {.bytes = x.bytes(), .flops = 2 * x.count()}; }
};

void run(const CpuContext&, const WeightedSum& op) {
  const double *x = op.x.as<double>(), *weights = op.weights.as<double>();
  for (std::int64_t i = 0; i < op.x.count(); ++i) *op.y.as<double>() += weights[i] * x[i];
}

[[maybe_unused]] void run(const CudaContext&, const WeightedSum&) {
  throw std::logic_error("gradcheck computes in f64, which only the CPU does");
}

class Harness {
 public:
  Harness(const GradcheckFunction& function, const std::vector<View>& inputs, std::uint64_t seed)
      : function_(function),
        inputs_(inputs),
        seed_(seed),
        device_(Device::cpu()),
        tape_(device_),
        values_(device_, false) {}

  // The contraction's value, on a tape that does not record.
  double value() {
    values_.reset();
    std::vector<Tensor> constants;
    for (const View& input : inputs_) constants.emplace_back(input);
    return *contract(values_, constants).as<double>();
  }

  // Runs forward and backward; returns the gradients of the inputs.
  std::vector<std::vector<double>> backward() {
    tape_.reset();
    std::vector<Tensor> leaves;
    for (const View& input : inputs_) leaves.push_back(tape_.leaf(input));
    tape_.backward(contract(tape_, leaves));
    std::vector<std::vector<double>> gradients;
    for (const Tensor& leaf : leaves) {
      const View gradient = tape_.gradient_of(leaf);
      std::vector<double> copy(static_cast<std::size_t>(leaf.count()), 0);  // the outputs may not depend on the input
      if (gradient) std::copy_n(gradient.as<double>(), leaf.count(), copy.begin());
      gradients.push_back(std::move(copy));
    }
    return gradients;
  }

 private:
  Tensor contract(Tape& tape, const std::vector<Tensor>& inputs) {
    const GradcheckOutputs outputs = function_(tape, inputs);
    Tensor sum = tape.empty(DType::f64, Shape{1});
    *sum.as<double>() = 0;
    if (weights_.empty()) draw_weights(outputs);
    for (std::size_t i = 0; i < outputs.size(); ++i)
      tape.run(WeightedSum{.y = sum, .x = outputs[i], .weights = weights_[i]});
    const Tensor* list = keep(tape, outputs);
    const OwnedTensor* weights = weights_.data();
    tape.on_backward([=, count = outputs.size()](Gradients& d) {
      const double dsum = *d[sum].template as<double>();
      for (std::size_t i = 0; i < count; ++i)
        if (const View dx = d[list[i]])
          for (std::int64_t j = 0; j < dx.count(); ++j) dx.as<double>()[j] = dsum * weights[i].as<double>()[j];
    });
    return sum;
  }

  // A copy of the list that lives as long as the tape's closures.
  const Tensor* keep(Tape& tape, const GradcheckOutputs& outputs) {
    std::vector<Tensor>& kept = &tape == &tape_ ? recorded_ : unrecorded_;
    kept = outputs;
    return kept.data();
  }

  void draw_weights(const GradcheckOutputs& outputs) {
    Philox random(seed_, RandomStream::test);
    for (const Tensor& output : outputs) {
      weights_.emplace_back(DType::f64, output.shape);
      for (std::int64_t i = 0; i < output.count(); ++i) weights_.back().as<double>()[i] = random.normal();
    }
  }

  const GradcheckFunction& function_;
  const std::vector<View>& inputs_;
  std::uint64_t seed_;
  Device device_;
  Tape tape_, values_;
  std::vector<OwnedTensor> weights_;
  std::vector<Tensor> recorded_, unrecorded_;
};

std::vector<double> numeric_gradient(Harness& harness, const View& operand, double step) {
  std::vector<double> gradient;
  for (std::int64_t i = 0; i < operand.count(); ++i) {
    double& x = operand.as<double>()[i];
    const double original = x;
    const auto at = [&](double offset) {
      x = original + offset;
      return harness.value();
    };
    const double near = at(step) - at(-step), far = at(2 * step) - at(-2 * step);
    gradient.push_back((8 * near - far) / (12 * step));
    x = original;
  }
  return gradient;
}

double worst_error(const std::vector<double>& analytic, const std::vector<double>& numeric) {
  double scale = 0.1, worst = 0;
  for (const double value : numeric) scale = std::max(scale, std::fabs(value));
  for (std::size_t i = 0; i < numeric.size(); ++i) {
    const double a = analytic[i], n = numeric[i];
    if (!std::isfinite(a) || !std::isfinite(n)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::fabs(a - n) / std::max({std::fabs(a), std::fabs(n), scale / 1000}));
  }
  return worst;
}

std::vector<double> gradient_of(const Parameter& parameter, double factor) {
  std::vector<double> gradient(static_cast<std::size_t>(parameter.gradient.count()), 0);
  if (parameter.has_gradient)
    for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = factor * parameter.gradient.as<double>()[i];
  return gradient;
}

void require_double(const std::vector<View>& inputs, const std::vector<Parameter*>& parameters) {
  const auto require = [](const View& view, const char* what) {
    if (!view || view.dtype != DType::f64)
      throw std::invalid_argument(std::string("gradcheck: ") + what + " must be f64, found " + Check::text(view));
  };
  for (const View& input : inputs) require(input, "an input");
  for (const Parameter* parameter : parameters) {
    require(parameter->value, "a parameter's value");
    require(parameter->gradient, "a parameter's gradient");
  }
}

}  // namespace

double gradcheck(const GradcheckFunction& function, const std::vector<View>& inputs,
                 const std::vector<Parameter*>& parameters, const GradcheckOptions& options) {
  require_double(inputs, parameters);
  for (Parameter* parameter : parameters) {
    parameter->has_gradient = false;
    std::fill_n(parameter->gradient.as<double>(), parameter->gradient.count(), std::nan(""));
  }
  Harness harness(function, inputs, options.seed);
  std::vector<std::vector<double>> analytic[2];
  for (int pass = 0; pass < 2; ++pass) {
    analytic[pass] = harness.backward();
    for (const Parameter* parameter : parameters) analytic[pass].push_back(gradient_of(*parameter, 1. / (pass + 1)));
  }
  std::vector<View> operands = inputs;
  for (Parameter* parameter : parameters) {
    operands.push_back(parameter->value);
    parameter->has_gradient = false;
  }
  double worst = 0;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const std::vector<double> numeric = numeric_gradient(harness, operands[i], options.step);
    worst = std::max({worst, worst_error(analytic[0][i], numeric), worst_error(analytic[1][i], numeric)});
  }
  return worst;
}

}  // namespace omni
