// Lists the points near their breakpoints in shared memory, for core/breakpoints.h.
#pragma once

#include "core/breakpoints.h"
#include "cuda/group_points.cuh"

namespace ddn::cuda {

// The `Lister` of BreakpointSums. Each warp, or group of fewer lanes, lists its own points and
// shares them out evenly among its lanes. The last row is padded with points at infinity, beyond
// their breakpoints on the right; as many points on the left balance them.
template <class T, class ThreadGroup, class Points>
struct GroupBreakpointLister {
  static constexpr bool bounded = true;
  // That share a list.
  using Sharers = Lanes < ThreadGroup::threads<warp_size ? ThreadGroup::threads : warp_size>;
  static constexpr int sharers = Sharers::threads;

  const GroupPoints<T, ThreadGroup, Points>& set;
  double alpha;
  Alpha<T> a;

  __device__ __forceinline__ int capacity() const {
    return Points::list_capacity(set.n, ThreadGroup::warps);
  }
  __device__ __forceinline__ T* list() const {
    return set.points.lists + ThreadGroup::rank() / sharers * capacity();
  }

  template <bool squares, bool beyond>
  __device__ __forceinline__ BreakpointPass collect(double u, double inner_distance,
                                                    double outer_distance) const {
    const Split<T, T> at(u);
    const T inner = static_cast<T>(inner_distance), outer = static_cast<T>(outer_distance);
    T sum = 0, square = 0, inside = 0, left = 0;
    double sums[squares ? 2 : 1] = {};
    uint64_t near = 0;  // a bit for each of this thread's points to list
    const T* const x = set.points.x + ThreadGroup::rank();
    const auto visit = [&](T point, unsigned bit, unsigned& bits) {
      const T z = residual(point, at.base, at.offset), distance = absolute(z);
      const bool within = distance <= inner;
      if (within) {
        sum += z;
        if constexpr (squares) square = added(square, z, z);
        inside += 1;
      }
      if (distance <= outer && !within) bits |= bit;
      if constexpr (beyond) left += z > outer ? T(1) : T(0);
    };
    const auto flush = [&] {
      sums[0] += static_cast<double>(sum);
      if constexpr (squares) sums[1] += static_cast<double>(square);
      sum = square = 0;
    };
    // From last to first, so that a row's bit has its number.
    const int rows =
        (set.n - ThreadGroup::rank() + ThreadGroup::threads - 1) / ThreadGroup::threads;
    static_assert(max_thread_points == 64 && run * 8 == 64, "a bit for each point of a thread");
    int row = rows / run * run;
    unsigned bits = 0;
    for (int k = row; k < rows; ++k) visit(x[k * ThreadGroup::threads], 1u << (k - row), bits);
    flush();
    near = bits;
    while (row > 0) {
      row -= run;
      bits = 0;
#pragma unroll
      for (int k = 0; k < run; ++k) visit(x[(row + k) * ThreadGroup::threads], 1u << k, bits);
      flush();
      near = near << run | bits;
    }

    const unsigned halves[2] = {static_cast<unsigned>(near), static_cast<unsigned>(near >> 32)};
    const int listed = __popc(halves[0]) + __popc(halves[1]);
    int last = listed;  // end of this lane's points in the list
#pragma unroll
    for (int distance = 1; distance < sharers; distance *= 2) {
      const int before = __shfl_up_sync(Sharers::mask(), last, distance, sharers);
      if (Sharers::rank() >= distance) last += before;
    }
    const int size = __shfl_sync(Sharers::mask(), last, sharers - 1, sharers);
    const int pads = -size & (sharers - 1);
    if (size <= capacity()) {
      Sharers::sync();  // lanes may still read an earlier list
      T* to = list() + last - listed;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        for (unsigned rest = halves[half]; rest != 0; rest &= rest - 1) {
          const int k = 32 * half + __ffs(static_cast<int>(rest)) - 1;
          *to++ = x[k * ThreadGroup::threads];
        }
      }
      if (Sharers::rank() < pads) {
        list()[size + Sharers::rank()] = static_cast<T>(detail::infinity);
      }
      Sharers::sync();
    }
    const bool leads = Sharers::rank() == 0;
    int numbers[] = {static_cast<int>(inside), listed, static_cast<int>(left), leads ? pads : 0,
                     leads && size > capacity()};
    ThreadGroup::template reduce<Add>(sums);
    ThreadGroup::sum(numbers);
    const int right = set.n - numbers[0] - numbers[1] - numbers[2];
    const FixedSums others{static_cast<double>(numbers[0]), sums[0], squares ? sums[1] : 0,
                           static_cast<double>(numbers[2] - right + numbers[3])};
    const int rows_listed = (size + pads) / sharers;
    return {u, 0, others, rows_listed, squares, beyond, numbers[4] == 0};
  }

  template <class P>
  __device__ __forceinline__ Sums listed(double u, const BreakpointPass& known) const {
    // Summed in the precision of the terms: few points err no more than the many others do.
    return set.template sums_of<P, T>(u, alpha, a, [&](const auto& body, const auto& flush) {
      constexpr int unrolled = 4;
      const T* x = list() + Sharers::rank();
      int rows = known.size;
#pragma unroll 1
      for (; rows >= unrolled; rows -= unrolled, x += unrolled * sharers) {
#pragma unroll
        for (int k = 0; k < unrolled; ++k) body(x[k * sharers], One{});
      }
#pragma unroll 1
      for (; rows > 0; --rows, x += sharers) body(*x, One{});
      flush();
    });
  }
  template <class P>
  __device__ __forceinline__ Sums all(double u) const {
    return set.template sums<P>(u, alpha, a);
  }
};

}  // namespace ddn::cuda
