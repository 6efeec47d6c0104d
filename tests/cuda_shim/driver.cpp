// The kernels' launchers and the shim's settings as functions of plain C, for ctypes.
#include <cstring>
#include <vector>

#include "core/penalties.h"
#include "cuda/robust_pool_cuda.h"
#include "cuda_shim.h"

namespace {

// num_sets, num_points, the rank of `sets` and a size and a stride for each of its dims, the same
// for `points`.
ddn::SetLayout read_layout(const int64_t* at) {
  ddn::SetLayout layout;
  layout.num_sets = *at++;
  layout.num_points = *at++;
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

ddn::DType dtype_of(int bytes) { return bytes == 8 ? ddn::DType::float64 : ddn::DType::float32; }

}  // namespace

extern "C" {

// -1 for no penalty of that name.
int shim_penalty(const char* name) { return penalty_number(name, ddn::Penalties{}); }

void shim_configure(int order, uint64_t seed, unsigned most_blocks) {
  cuda_shim::set_order(static_cast<cuda_shim::Order>(order), seed);
  cuda_shim::set_most_blocks(most_blocks);
}
const char* shim_error() { return cuda_shim::error(); }
void shim_clear_error() { cuda_shim::clear_error(); }
int shim_was_launched(const void* kernel) { return cuda_shim::was_launched(kernel); }

int shim_forward(int bytes, int penalty, int global, const int64_t* layout, const void* x, void* y,
                 void* remainder, void* curvature, const void* alpha, double alpha_value,
                 const void* weight, const int64_t* weight_layout, int64_t max_iter,
                 double tolerance) {
  ddn::ForwardArgs args{};
  args.dtype = dtype_of(bytes);
  args.penalty = penalty;
  args.global = global != 0;
  args.layout = read_layout(layout);
  args.x = x;
  args.y = y;
  args.remainder = remainder;
  args.curvature = curvature;
  args.alpha = alpha;
  args.alpha_value = alpha_value;
  args.weight = weight;
  if (weight != nullptr) args.weight_layout = read_layout(weight_layout);
  args.max_iter = max_iter;
  args.tolerance = tolerance;
  std::vector<unsigned char> workspace(
      static_cast<size_t>(ddn::cuda::robust_pool_workspace_bytes(args)));
  args.workspace = workspace.data();
  return ddn::cuda::robust_pool_forward(args, nullptr);
}

int shim_backward(int bytes, int penalty, const int64_t* layout, const int64_t* grad_layout,
                  const void* grad, const void* x, const void* y, const void* remainder,
                  const void* curvature, const void* alpha, double alpha_value, const void* weight,
                  const int64_t* weight_layout, void* grad_x, void* grad_weight) {
  ddn::BackwardArgs args{};
  args.dtype = dtype_of(bytes);
  args.penalty = penalty;
  args.layout = read_layout(layout);
  args.grad_layout = read_layout(grad_layout);
  args.grad = grad;
  args.x = x;
  args.y = y;
  args.remainder = remainder;
  args.curvature = curvature;
  args.alpha = alpha;
  args.alpha_value = alpha_value;
  args.weight = weight;
  if (weight != nullptr) args.weight_layout = read_layout(weight_layout);
  args.grad_x = grad_x;
  args.grad_weight = grad_weight;
  return ddn::cuda::robust_pool_backward(args, nullptr);
}

}  // extern "C"
