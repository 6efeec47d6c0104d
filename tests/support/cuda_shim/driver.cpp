// C functions for ctypes: the kernels' launchers and the settings of the shim.
#include <cstring>
#include <vector>

#include "core/penalties.h"
#include "cuda/robust_pool_cuda.h"
#include "cuda_shim.h"

namespace {

// num_sets, num_points, channels, the rank of `sets` and a size and a stride for each of its dims,
// the same for `points`.
ddn::SetLayout read_layout(const int64_t* at, const int64_t* ptr) {
  ddn::SetLayout layout;
  if (at == nullptr) return layout;
  layout.ptr = ptr;
  layout.num_sets = *at++;
  layout.num_points = *at++;
  layout.channels = *at++;
  for (ddn::Dims* dims : {&layout.sets, &layout.points}) {
    dims->rank = static_cast<int>(*at++);
    for (int d = 0; d < dims->rank; ++d) {
      dims->size[d] = *at++;
      dims->stride[d] = *at++;
    }
  }
  return layout;
}

template <class... P>
int penalty_number(const char* name, ddn::TypeList<P...>) {
  int number = 0;
  return ((strcmp(P::name, name) == 0 || (++number, false)) || ...) ? number : -1;
}

// A tensor with its layout; data may be null.
struct Array {
  void* data;
  const int64_t* layout;
};

// The arguments common to both passes.
struct Sets {
  int dtype, penalty;
  const int64_t* ptr;  // null but for segments
  Array x;
  const void* alpha;
  double alpha_value;
  Array weight;
  int weight_dtype;
};

void fill_in(ddn::PoolArgs& args, const Sets& sets) {
  args.dtype = static_cast<ddn::DType>(sets.dtype);
  args.penalty = sets.penalty;
  args.layout = read_layout(sets.x.layout, sets.ptr);
  args.x = sets.x.data;
  args.alpha = sets.alpha;
  args.alpha_value = sets.alpha_value;
  args.weight = sets.weight.data;
  args.weight_dtype = static_cast<ddn::DType>(sets.weight_dtype);
  args.weight_layout = read_layout(sets.weight.layout, sets.ptr);
}

}  // namespace

extern "C" {

// -1 for no penalty of that name.
int shim_penalty(const char* name) { return penalty_number(name, ddn::Penalties{}); }

void shim_configure(int order, uint64_t seed, unsigned most_blocks) {
  cuda_shim::set_order(static_cast<cuda_shim::Order>(order), seed);
  cuda_shim::set_most_blocks(most_blocks);
}
void shim_use_device(int multiprocessors, int shared_bytes) {
  cuda_shim::set_device({multiprocessors, shared_bytes});
}
const char* shim_error() { return cuda_shim::error(); }
void shim_clear_error() { cuda_shim::clear_error(); }
int shim_was_launched(const void* kernel) { return cuda_shim::was_launched(kernel); }
void shim_forget_launches() { cuda_shim::forget_launches(); }

// info: null, or arrays of which each may be null too.
int shim_forward(const Sets* sets, int global, void* y, void* remainder, void* curvature,
                 int64_t max_iter, double tolerance, const ddn::InfoArgs* info) {
  ddn::ForwardArgs args{};
  fill_in(args, *sets);
  args.global = global != 0;
  args.y = y;
  args.remainder = remainder;
  args.curvature = curvature;
  args.max_iter = max_iter;
  args.tolerance = tolerance;
  if (info != nullptr) args.info = *info;
  // Aligned as torch aligns it.
  constexpr size_t alignment = 256 / sizeof(int64_t);
  const auto numbers = static_cast<size_t>(ddn::cuda::robust_pool_workspace_bytes(args)) / 8 + 1;
  std::vector<int64_t> room(numbers + alignment);
  const size_t skipped = alignment - reinterpret_cast<uintptr_t>(room.data()) / 8 % alignment;
  args.workspace = room.data() + skipped;
  if (cuda_shim::backend != nullptr) {
    cuda_shim::backend->allow(args.workspace, numbers * sizeof(int64_t), true);
  }
  return ddn::cuda::robust_pool_forward(args, nullptr);
}

int shim_backward(const Sets* sets, const void* y, const void* remainder, const void* curvature,
                  const void* grad, Array grad_x, Array grad_weight, void* grad_alpha,
                  Array tangent_x, Array tangent_weight, const void* tangent_alpha,
                  void* tangent_y) {
  const auto array = [&](const Array& from) {
    return ddn::PointArray{from.data, read_layout(from.layout, sets->ptr)};
  };
  ddn::BackwardArgs args{};
  fill_in(args, *sets);
  args.y = y;
  args.remainder = remainder;
  args.curvature = curvature;
  args.grad = grad;
  args.grad_x = array(grad_x);
  args.grad_weight = array(grad_weight);
  args.grad_alpha = grad_alpha;
  args.tangent_x = array(tangent_x);
  args.tangent_weight = array(tangent_weight);
  args.tangent_alpha = tangent_alpha;
  args.tangent_y = tangent_y;
  return ddn::cuda::robust_pool_backward(args, nullptr);
}

int shim_offsets(const int64_t* given, int64_t* safe, int64_t count, int64_t rows) {
  std::vector<int64_t> largest(static_cast<size_t>(ddn::cuda::segment_offsets_workspace(count)));
  if (cuda_shim::backend != nullptr) {
    cuda_shim::backend->allow(largest.data(), largest.size() * sizeof(int64_t), true);
  }
  return ddn::cuda::segment_offsets({given, safe, largest.data(), count, rows}, nullptr);
}

// parameters: [requests] of ddn::PassRequest.
int shim_sharded(const Sets* sets, int pass, int64_t requests, const int64_t* of,
                 const void* parameters, double* numbers) {
  ddn::ShardedArgs args{};
  fill_in(args, *sets);
  args.pass = static_cast<ddn::ShardedPass>(pass);
  args.requests = requests;
  args.sets = of;
  args.parameters = static_cast<const ddn::PassRequest*>(parameters);
  args.numbers = numbers;
  return ddn::cuda::sharded_passes(args, nullptr);
}

}  // extern "C"
