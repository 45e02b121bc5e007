// Attention by cuDNN: a graph of one operation, for which cuDNN chooses a kernel. Its backward pass is free to add in
// any order, where ours keeps one.

#define CUDNN_FRONTEND_SKIP_JSON_LIB  // graphs are not saved
#include <cudnn_frontend.h>

#include "bench/kernels/baselines/baseline.h"

namespace omni::bench {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

void check(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS) throw std::runtime_error(std::string(call) + ": " + cudnnGetErrorString(status));
}
void check(fe::error_t status, const char* call) {
  if (status.is_bad()) throw std::runtime_error(std::string("cudnn_frontend ") + call + ": " + status.get_message());
}

struct Destroy {
  void operator()(cudnnHandle_t handle) const { cudnnDestroy(handle); }
};

// Says of a tensor how ours lies in memory, as cuDNN counts dimensions: batch, head, time, and channel.
fe::graph::Tensor_attributes& describe(fe::graph::Tensor_attributes& tensor, const ConstView& view) {
  const Shape& shape = view.shape;
  if (shape.rank() == 3)  // lse [batch, heads, time]
    return tensor.set_dim({shape[0], shape[1], shape[2], 1})
        .set_stride({shape[1] * shape[2], shape[2], 1, 1})
        .set_data_type(fe::DataType_t::FLOAT);
  const std::int64_t time = shape[1], heads = shape[2], channels = shape[3];
  return tensor.set_dim({shape[0], heads, time, channels})
      .set_stride({time * heads * channels, channels, heads * channels, 1})
      .set_data_type(fe::DataType_t::BFLOAT16);
}

// The options that forward and backward operation have in common.
template <class Options>
Options options_of(const Attention& op) {
  if (op.mask.lengths || op.mask.starts) throw std::runtime_error("cudnn: lengths and starts are not handed on");
  Options options;
  options.set_name(Attention::name).set_attn_scale(static_cast<float>(op.score_scale()));
  options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT);
  if (op.mask.causal) options.set_diagonal_band_right_bound(0);
  if (op.mask.window > 0) options.set_diagonal_band_left_bound(static_cast<int>(op.mask.window));
  return options;
}

class AttentionGraph {
 public:
  explicit AttentionGraph(Device& device) {
    cudnnHandle_t handle;
    check(cudnnCreate(&handle), "cudnnCreate");
    handle_.reset(handle);
    check(cudnnSetStream(handle, static_cast<cudaStream_t>(device.cuda_context()->stream)), "cudnnSetStream");
    graph.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }

  Tensor input(const ConstView& view) {
    fe::graph::Tensor_attributes attributes;
    const Tensor tensor = graph.tensor(describe(attributes, view));
    memory_[tensor] = const_cast<void*>(view.data);  // cuDNN reads it only
    return tensor;
  }
  void output(const Tensor& tensor, const View& view) {
    describe(*tensor, view).set_output(true);
    memory_[tensor] = view.data;
  }

  void build() {
    check(graph.validate(), "validate");
    check(graph.build_operation_graph(handle_.get()), "build_operation_graph");
    check(graph.create_execution_plans({fe::HeurMode_t::A}), "create_execution_plans");
    check(graph.check_support(), "check_support");
    check(graph.build_plans(), "build_plans");
    std::int64_t bytes = 0;
    check(graph.get_workspace_size(bytes), "get_workspace_size");
    workspace_ = Buffer(static_cast<std::size_t>(bytes), MemoryKind::cuda);
  }

  void enqueue() { check(graph.execute(handle_.get(), memory_, workspace_.data()), "execute"); }

  fe::graph::Graph graph;

 private:
  std::unique_ptr<cudnnContext, Destroy> handle_;
  std::unordered_map<Tensor, void*> memory_;
  Buffer workspace_;
};

std::function<void()> ready(const std::shared_ptr<AttentionGraph>& made) {
  made->build();
  return [made] { made->enqueue(); };
}

}  // namespace

std::function<void()> cudnn(Device& device, const Attention& op) {
  const auto made = std::make_shared<AttentionGraph>(device);
  auto options = options_of<fe::graph::SDPA_attributes>(op);
  options.set_generate_stats(static_cast<bool>(op.lse));
  const auto [o, lse] = made->graph.sdpa(made->input(op.q), made->input(op.k), made->input(op.v), options);
  made->output(o, op.o);
  if (op.lse) made->output(lse, op.lse);
  return ready(made);
}

std::function<void()> cudnn(Device& device, const AttentionBackward& op) {
  const auto made = std::make_shared<AttentionGraph>(device);
  const auto [dq, dk, dv] = made->graph.sdpa_backward(made->input(op.q), made->input(op.k), made->input(op.v),
                                                      made->input(op.o), made->input(op.do_), made->input(op.lse),
                                                      options_of<fe::graph::SDPA_backward_attributes>(op.forward()));
  made->output(dq, op.dq);
  made->output(dk, op.dk);
  made->output(dv, op.dv);
  return ready(made);
}

}  // namespace omni::bench
