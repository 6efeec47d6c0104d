#include "ops/layout.h"

#include <algorithm>
#include <cstdint>

#include "ops/pool.h"

namespace ddn {
namespace {

// Appends a dim, merging it with the last one if the two are contiguous. Returns false if there is
// no room.
bool append(Dims& dims, int64_t size, int64_t stride) {
  if (size == 1) return true;
  if (dims.rank > 0 && dims.stride[dims.rank - 1] == size * stride) {
    dims.size[dims.rank - 1] *= size;
    dims.stride[dims.rank - 1] = stride;
    return true;
  }
  if (dims.rank == Dims::max_rank) return false;
  dims.size[dims.rank] = size;
  dims.stride[dims.rank] = stride;
  ++dims.rank;
  return true;
}

bool is_pooled(int64_t d, at::IntArrayRef dim) {
  return std::find(dim.begin(), dim.end(), d) != dim.end();
}

DType dtype_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kBool:
      return DType::boolean;
    case at::kDouble:
      return DType::float64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      return DType::float32;
  }
}

}  // namespace

std::vector<int64_t> PoolCall::shape_of_answer() const {
  std::vector<int64_t> shape = x.sizes().vec();
  for (const int64_t d : dim) shape[d] = 1;
  if (ptr.has_value()) shape[0] = ptr->size(0) - 1;
  return shape;
}

at::Tensor expanded(const std::optional<at::Tensor>& t, at::IntArrayRef shape,
                    at::ScalarType dtype) {
  if (!t.has_value()) return {};
  return t->to(dtype).expand(shape);
}

Operands::Operands(const PoolCall& call) : dim(call.dim.vec()), x(call.x) {
  if (call.ptr.has_value()) ptr = call.safe_offsets(*call.ptr, x.size(0));
  if (call.weight.has_value()) weight = call.weight->expand(x.sizes());
  if (call.alpha.has_value()) {
    alpha = expanded(call.alpha, call.shape_of_answer(), opmath(x)).contiguous();
  }
}

std::optional<SetLayout> Operands::layout_of(const at::Tensor& t) const {
  SetLayout layout;
  if (!t.defined()) return layout;
  layout.num_sets = layout.num_points = 1;
  for (int64_t d = 0; d < t.dim(); ++d) {
    const bool pooled = is_pooled(d, dim);
    (pooled ? layout.num_points : layout.num_sets) *= t.size(d);
    if (pooled && ptr.defined()) continue;
    if (!append(pooled ? layout.points : layout.sets, t.size(d), t.stride(d))) {
      return std::nullopt;
    }
  }
  if (ptr.defined()) {
    layout.points.rank = 1;
    layout.points.size[0] = t.size(0);
    layout.points.stride[0] = t.stride(0);
    layout.ptr = ptr.const_data_ptr<int64_t>();
    layout.channels = layout.num_sets;
    layout.num_sets *= ptr.size(0) - 1;
  }
  return layout;
}

void Operands::describe() {
  for (at::Tensor* t : {&x, &weight, &x_tangent, &weight_tangent, &grad_x, &grad_weight}) {
    if (layout_of(*t).has_value()) continue;
    std::vector<int64_t> order;
    for (int64_t d = 0; d < t->dim(); ++d) {
      if (!is_pooled(d, dim)) order.push_back(d);
    }
    order.insert(ptr.defined() ? order.begin() : order.end(), dim.begin(), dim.end());
    std::vector<int64_t> back(order.size());
    for (size_t d = 0; d < order.size(); ++d) {
      back[static_cast<size_t>(order[d])] = static_cast<int64_t>(d);
    }
    *t = t->permute(order).contiguous().permute(back);
  }
}

void Operands::fill_in(PoolArgs& args, double alpha_value, int penalty) const {
  args.dtype = dtype_of(x);
  args.penalty = penalty;
  args.layout = *layout_of(x);
  args.x = x.const_data_ptr();
  args.alpha = data_or_null(alpha);
  args.alpha_value = alpha_value;
  args.weight = data_or_null(weight);
  if (weight.defined()) args.weight_dtype = dtype_of(weight);
  args.weight_layout = *layout_of(weight);
}

PointArray Operands::point_array(const at::Tensor& t) const {
  return {const_cast<void*>(data_or_null(t)), *layout_of(t)};
}

}  // namespace ddn
