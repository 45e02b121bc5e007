#include "kernels/matmul/onednn.h"

#include <dnnl.hpp>
#include <unordered_map>

#include "kernels/elementwise/elementwise.h"

namespace omni {
namespace {

using dnnl::memory;

// All that decides which primitive is needed.
struct Key {
  std::int64_t m, n, k, c_stride;
  bool transpose_a, transpose_b, accumulate, bias;
  DType operands, result;
  int threads;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a over the fields
    for (const std::uint64_t field :
         {static_cast<std::uint64_t>(key.m), static_cast<std::uint64_t>(key.n), static_cast<std::uint64_t>(key.k),
          static_cast<std::uint64_t>(key.c_stride),
          static_cast<std::uint64_t>(key.transpose_a) | static_cast<std::uint64_t>(key.transpose_b) << 1 |
              static_cast<std::uint64_t>(key.accumulate) << 2 | static_cast<std::uint64_t>(key.bias) << 3 |
              static_cast<std::uint64_t>(key.operands) << 8 | static_cast<std::uint64_t>(key.result) << 16 |
              static_cast<std::uint64_t>(key.threads) << 24})
      hash = (hash ^ field) * 1099511628211u;
    return hash;
  }
};

// A compiled product with its memory objects, whose pointers are set before each execution.
struct Primitive {
  dnnl::matmul matmul;
  memory a, b, c, bias, scratchpad;
  std::unordered_map<int, memory> arguments;
};

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// A rows x columns matrix, stored row by row or, transposed, column by column.
memory::desc matrix(std::int64_t rows, std::int64_t columns, DType dtype, bool transposed) {
  return {{rows, columns}, type_of(dtype), transposed ? memory::dims{1, rows} : memory::dims{columns, 1}};
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a, const memory::desc& b,
                                      const memory::desc* bias, const memory::desc& c,
                                      const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return bias ? dnnl::matmul::primitive_desc(engine, a, b, *bias, c, attributes)
              : dnnl::matmul::primitive_desc(engine, a, b, c, attributes);
#else
  return {bias ? dnnl::matmul::desc(a, b, *bias, c) : dnnl::matmul::desc(a, b, c), attributes, engine};
#endif
}

// The primitives of this thread. Their memory objects hold pointers, so threads do not share them.
class Primitives {
 public:
  Primitive& get(const Key& key) {
    const auto found = primitives_.find(key);
    return found != primitives_.end() ? found->second : primitives_.emplace(key, make(key)).first->second;
  }
  dnnl::stream& stream() { return stream_; }

  // Whether this processor has products of bf16: oneDNN has none without AVX-512.
  bool has_bf16() const {
    const memory::desc square = matrix(16, 16, DType::bf16, false);
    try {
      describe(engine_, square, square, nullptr, square, {});
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
      return false;
    }
    return true;
  }
  // Memory for `count` numbers, until the next call.
  float* wide(std::int64_t count) {
    return reinterpret_cast<float*>(wide_.get(static_cast<std::size_t>(count) * sizeof(float)));
  }

 private:
  Primitive make(const Key& key) const {
    const memory::desc a = matrix(key.m, key.k, key.operands, key.transpose_a);
    const memory::desc b = matrix(key.k, key.n, key.operands, key.transpose_b);
    const memory::desc c({key.m, key.n}, type_of(key.result), memory::dims{key.c_stride, 1});
    const memory::desc bias = matrix(1, key.n, DType::f32, false);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const auto description = describe(engine_, a, b, key.bias ? &bias : nullptr, c, attributes);
    Primitive primitive{dnnl::matmul(description),
                        memory(a, engine_, nullptr),
                        memory(b, engine_, nullptr),
                        memory(c, engine_, nullptr),
                        memory(bias, engine_, nullptr),
                        memory(description.scratchpad_desc(), engine_, nullptr),
                        {}};
    // The map's copies share the handles of the members, so setting a pointer there is seen here.
    primitive.arguments = {{DNNL_ARG_SRC, primitive.a},
                           {DNNL_ARG_WEIGHTS, primitive.b},
                           {DNNL_ARG_DST, primitive.c},
                           {DNNL_ARG_SCRATCHPAD, primitive.scratchpad}};
    if (key.bias) primitive.arguments.emplace(DNNL_ARG_BIAS, primitive.bias);
    return primitive;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::unordered_map<Key, Primitive, KeyHash> primitives_;
  Workspace wide_;
};

// c_stride: numbers from one row of c to the next.
void run_primitive(const CpuContext& cpu, Primitives& primitives, const Matmul& op, std::int64_t c_stride) {
  Primitive& primitive =
      primitives.get({op.m(), op.n(), op.k(), c_stride, op.transpose_a, op.transpose_b, op.accumulate,
                      static_cast<bool>(op.bias), op.a.dtype, op.c.dtype, cpu.threads});
  // oneDNN's interface has no const memory; it does not write to sources.
  primitive.a.set_data_handle(const_cast<void*>(op.a.data));
  primitive.b.set_data_handle(const_cast<void*>(op.b.data));
  primitive.c.set_data_handle(op.c.data);
  if (op.bias) primitive.bias.set_data_handle(const_cast<void*>(op.bias.data));
  primitive.scratchpad.set_data_handle(cpu.workspace->get(primitive.scratchpad.get_desc().get_size()));
  primitive.matmul.execute(primitives.stream(), primitive.arguments);
  primitives.stream().wait();
}

// How many columns of the product are made at a time from widened operands. Where a has few rows, widening b takes as
// long as the product itself, so rows of b are multiplied while they are still in cache.
std::int64_t widened_columns(const Matmul& op) {
  constexpr std::int64_t kInCache = 1 << 18;  // numbers: 1 MiB
  if (!op.transpose_b) return op.n();
  return std::min(op.n(), std::max(op.m(), kInCache / (op.k() + 1) + 1));
}

// A product of bf16 by one of f32: the operands are widened first, and the result is rounded.
void run_widened(const CpuContext& cpu, Primitives& primitives, const Matmul& op) {
  const bool rounds = op.c.dtype == DType::bf16;
  const std::int64_t n = op.n(), columns = widened_columns(op);
  const auto b_part = [&](std::int64_t count) { return op.transpose_b ? Shape{count, op.k()} : op.b.shape; };
  float* free = primitives.wide(op.a.count() + b_part(columns).count() + (rounds ? op.c.count() : 0));
  const auto place_for = [&](const Shape& shape) {
    const View wide = view_of(free, shape);
    free += shape.count();
    return wide;
  };
  const View a = place_for(op.a.shape), b = place_for(b_part(columns)), c = rounds ? place_for(op.c.shape) : op.c;
  run(cpu, Copy{a, op.a});
  if (rounds && op.accumulate) run(cpu, Copy{c, op.c});
  for (std::int64_t first = 0; first < n; first += columns) {
    const std::int64_t count = std::min(columns, n - first);
    Matmul wide = op;
    wide.a = a;
    wide.b = slice(b, 0, b_part(count));
    run(cpu, Copy{slice(b, 0, b_part(count)), slice(op.b, first * op.k(), b_part(count))});
    wide.c = slice(c, first, {op.m(), count});
    if (op.bias) wide.bias = slice(op.bias, first, {count});
    run_primitive(cpu, primitives, wide, n);
  }
  if (rounds) run(cpu, Copy{op.c, c});
}

}  // namespace

void onednn_matmul(const CpuContext& cpu, const Matmul& op) {
  thread_local Primitives primitives;
  static const bool has_bf16 = primitives.has_bf16();
  if (op.a.dtype == DType::f32 || has_bf16) return run_primitive(cpu, primitives, op, op.n());
  run_widened(cpu, primitives, op);
}

}  // namespace omni
