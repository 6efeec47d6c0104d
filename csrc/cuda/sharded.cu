// The passes over sets whose points lie on several ranks, on CUDA: one block for each request, in
// double precision for all dtypes.
#include <type_traits>

#include "core/sharded_pass.h"
#include "cuda/group_set.cuh"
#include "cuda/launch_limits.cuh"
#include "cuda/robust_pool_cuda.h"

namespace ddn::cuda {

// Points of any dtype in any dims. Without weights, each weight is one.
struct SharedPoints {
  static constexpr bool weighted = true, in_global_memory = true, has_lists = false;
  using Index = int64_t;
  const PoolArgs& args;
  int64_t first_point, first_weight;
  double inverse_unit;

  __device__ __forceinline__ double operator[](int64_t i) const {
    return load_weight<double>(args.x, args.dtype, first_point + args.layout.points.offset(i));
  }
  __device__ __forceinline__ double given(int64_t i) const {
    return args.weight == nullptr
               ? 1.0
               : load_weight<double>(args.weight, args.weight_dtype,
                                     first_weight + args.weight_layout.points.offset(i));
  }
  __device__ __forceinline__ double weight(int64_t i) const { return given(i) * inverse_unit; }
  __device__ __forceinline__ bool in_one_dim() const { return true; }
  template <bool whole, int count>
  __device__ __forceinline__ Batch<double, double, count> batch(int64_t i, int step,
                                                                int64_t n) const {
    Batch<double, double, count> batch;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const bool there = whole || i + k * step < n;
      batch.x[k] = there ? (*this)[i + k * step] : 0;
      batch.weights[k] = there ? weight(i + k * step) : 0;
    }
    return batch;
  }
};

template <class Pass>
__global__ void __launch_bounds__(block_threads)
    sharded_pass(const __grid_constant__ ShardedArgs args) {
  using ThreadGroup = Block<block_threads>;
  // Only these passes use the unit and the validity of this rank's own weights.
  constexpr bool of_weights = std::is_same_v<Pass, EndsPass> || std::is_same_v<Pass, TotalsPass>;
  const int64_t n = args.layout.num_points;
  for (int64_t i = blockIdx.x; i < args.requests; i += gridDim.x) {
    const PassRequest request = args.parameters[i];
    const int64_t set = args.sets[i];
    SharedPoints points{args, args.layout.place(set).first,
                        args.weight == nullptr ? 0 : args.weight_layout.place(set).first,
                        request.inverse_unit};
    WeightStatistics weights{0, 1 / request.inverse_unit};
    if constexpr (of_weights) {
      weights = weight_statistics<ThreadGroup, double>([&](const auto& body) {
        for (int64_t j = ThreadGroup::rank(); j < n; j += ThreadGroup::threads) {
          body(points.given(j));
        }
      });
      points.inverse_unit = 1 / weights.unit;
    }
    const GroupSet<double, ThreadGroup, SharedPoints> group_set(points, n, weights, nullptr);
    run_pass<Pass>(group_set, request, args.numbers + i * Pass::numbers);
  }
}

cudaError_t sharded_passes(const ShardedArgs& args, cudaStream_t stream) {
  if (args.requests == 0) return cudaSuccess;
  with_sharded_pass(args.pass, args.penalty, [&](auto pass) {
    DDN_LAUNCH((sharded_pass<decltype(pass)>), grid_for(args.requests, 1), block_threads, 0, stream,
               args);
  });
  return cudaGetLastError();
}

}  // namespace ddn::cuda
