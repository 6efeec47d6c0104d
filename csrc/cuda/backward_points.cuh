// The gradients of a point and of its weight, written where they are wanted.
#pragma once

#include "core/gradient.h"
#include "cuda/launch.h"

namespace ddn::cuda {

template <class P, class S, class T>
__device__ __forceinline__ void write_gradients(const BackwardArgs& args, T x, T weight,
                                                const SetGradient<T>& set, int64_t grad_x_at,
                                                int64_t grad_weight_at) {
  if (args.grad_x.data != nullptr) {
    static_cast<S*>(args.grad_x.data)[grad_x_at] =
        bounded_from_real<S>(point_gradient<P>(x, weight, set));
  }
  if (args.grad_weight.data != nullptr) {
    static_cast<T*>(args.grad_weight.data)[grad_weight_at] = weight_gradient<P>(x, set);
  }
}

}  // namespace ddn::cuda
