// A subset of CUDA for a plain C++ compiler: kernel files compiled with
//
//   g++ -x c++ -DDDN_CUDA_SHIM -I tests/support/cuda_shim -I csrc
//
// run on the host, for tests on machines without a GPU. The threads of a block are fibers of one
// host thread. Each runs alone until it reaches a collective (a barrier, shuffle, vote), where it
// waits for the other participants. The `Order` selects the next of the runnable threads. Blocks
// run one after the other. Shared memory is filled with NaN when a block starts. Detected undefined
// behaviour ends the launch: it returns cudaErrorLaunchFailure, and error() has the cause and the
// line.
//
// A back end may replace a kernel: tests/support/ptx_emulator runs nvcc's PTX.
//
// Not modelled: races between blocks, memory ordering, stream order, registers, alignment, speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// Shared variables are thread-local, so those of all kernels are contiguous and the scheduler can
// fill them with NaN. AddressSanitizer guards plain variables only.
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

struct uint3 {
  unsigned x, y, z;
};

// Vectors, to which pointers to elements may be cast.
#define DDN_SHIM_VECTOR(T, name, count, ...)                  \
  struct [[gnu::may_alias]] alignas(count * sizeof(T)) name { \
    T __VA_ARGS__;                                            \
  };                                                          \
  template <class... Elements>                                \
  name make_##name(Elements... elements) {                    \
    static_assert(sizeof...(elements) == count);              \
    return {static_cast<T>(elements)...};                     \
  }
DDN_SHIM_VECTOR(unsigned short, ushort2, 2, x, y)
DDN_SHIM_VECTOR(unsigned short, ushort4, 4, x, y, z, w)
DDN_SHIM_VECTOR(int, int2, 2, x, y)
DDN_SHIM_VECTOR(int, int4, 4, x, y, z, w)
DDN_SHIM_VECTOR(unsigned, uint2, 2, x, y)
DDN_SHIM_VECTOR(unsigned, uint4, 4, x, y, z, w)
DDN_SHIM_VECTOR(float, float2, 2, x, y)
DDN_SHIM_VECTOR(float, float4, 4, x, y, z, w)
DDN_SHIM_VECTOR(double, double2, 2, x, y)
#undef DDN_SHIM_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the current thread.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxShared = 100 };

using cudaStream_t = struct CUstream_st*;

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
};
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetLastError();

namespace cuda_shim {

constexpr size_t shared_limit = 48 << 10;  // without cudaFuncSetAttribute
constexpr unsigned threads_limit = 1024;

// What a kernel's launcher can ask about the device. By default it has one multiprocessor, so that
// blocks of a grid that fills it once take several sets each, of compute capability 9.0.
struct Device {
  int multiprocessors = 1;
  int shared_bytes = 228 << 10;  // of a multiprocessor

  // Of a block, at most.
  int block_shared_bytes() const { return shared_bytes - (1 << 10); }
};
const Device& device();
void set_device(const Device& device);

enum class Order { forward, reversed, random };
// Forward: the first of the runnable threads runs next. `seed` is for random.
void set_order(Order order, uint64_t seed);
// Limits the x size of all further grids, for kernels with grid-stride loops.
void set_most_blocks(unsigned most);
// Whether the kernel has been launched since the start of the program or the last reset.
bool was_launched(const void* kernel);
void forget_launches();
// The first error since clear_error(), or "".
const char* error();
void clear_error();

// The call site of a collective: the source line, the compiler's copy of it, and the place where
// its function was inlined.
struct Site {
  const char* name;
  const char* file;
  int line;
  int copy = 0;
  const char* inlined_at = "";
};

// The contribution of a lane to a warp collective.
struct Arrival {
  Site site;
  unsigned mask;
  const void* value;  // what the lane gives
  void* result;       // what it gets
  unsigned bytes;     // of each
  int source;         // the lane that a shuffle reads, or `vote` or `gather`
  bool orders_memory = false;
};
constexpr int vote = -1;    // value is a bool, the result a mask of the lanes whose value is true
constexpr int gather = -2;  // the result has the value of each lane of the mask, in its place

void sync_threads(const Site& site);
void sync_warp(Arrival& arrival);

// Asynchronous copies; see csrc/cuda/async_copy.cuh and async_copies.cpp.
void issue_copy(void* shared, const void* global, int bytes, int valid, const Site& site);
void commit_async_copies();
void wait_for_copies(int pending);

cudaError_t set_shared_limit(const void* kernel, cudaFuncAttribute attribute, int bytes);
void* dynamic_shared();
void run_grid(const void* kernel, const char* name, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()>& thread);

// An argument of a launch.
struct Argument {
  const void* value;
  size_t bytes;
};

// Runs kernels in place of the host's code, with notifications of collectives.
struct Backend {
  void (*run)(const void* kernel, const char* name, dim3 grid, dim3 block, size_t shared_bytes,
              const Argument* arguments, size_t num_arguments);
  void (*begin_block)();
  void (*barrier)();  // of the block: all have arrived
  void (*warp_meets)(unsigned warp, unsigned members, bool orders_memory);
  // Permits kernels to access this memory.
  void (*allow)(const void* begin, size_t bytes, bool writable);
};
extern const Backend* backend;  // null: the host's code runs

// Ends the launch from within a thread.
[[noreturn]] void fail_thread(const std::string& message);
// There is no current launch.
void fail_launch(const char* kernel, const std::string& message);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const char* name, dim3 grid, dim3 block,
            size_t shared_bytes, cudaStream_t, Arguments&&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> parameters(std::forward<Arguments>(arguments)...);
  if (backend != nullptr) {
    std::apply(
        [&](const auto&... parameter) {
          const Argument list[] = {{&parameter, sizeof parameter}...};
          backend->run(reinterpret_cast<const void*>(kernel), name, grid, block, shared_bytes, list,
                       sizeof...(parameter));
        },
        parameters);
    return;
  }
  run_grid(reinterpret_cast<const void*>(kernel), name, grid, block, shared_bytes,
           [&] { std::apply(kernel, parameters); });
}

unsigned lane();
void check_width(const Site& site, int width);

enum class Shuffle { index, up, down, exclusive_or };

// As for the PTX instruction shfl, a source outside the lane's segment of `width` lanes is replaced
// by the lane itself.
inline int shuffle_source(Shuffle kind, int by, int width) {
  const int self = static_cast<int>(lane());
  const int first = self & (warpSize - width), last = first + width - 1;
  switch (kind) {
    case Shuffle::index:
      return first + (by & (width - 1));
    case Shuffle::up:
      return self - by >= first ? self - by : self;
    case Shuffle::down:
      return self + by <= last ? self + by : self;
    default:
      return (self ^ by) <= last ? self ^ by : self;
  }
}

template <class T>
T shuffle(const Site& site, Shuffle kind, unsigned mask, const T& value, int by, int width) {
  static_assert(std::is_arithmetic_v<T>);
  check_width(site, width);
  T result;
  Arrival arrival{site, mask, &value, &result, sizeof(T), shuffle_source(kind, by, width)};
  sync_warp(arrival);
  return result;
}

inline unsigned ballot(const Site& site, unsigned mask, bool value) {
  unsigned result;
  Arrival arrival{site, mask, &value, &result, sizeof result, vote};
  sync_warp(arrival);
  return result;
}

// Over the lanes of the mask.
template <class Combine>
int reduce(const Site& site, unsigned mask, int value, const Combine& combine) {
  int values[warpSize];
  Arrival arrival{site, mask, &value, values, sizeof value, gather};
  sync_warp(arrival);
  int all = values[__builtin_ctz(mask)];
  for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    all = combine(all, values[__builtin_ctz(rest)]);
  }
  return all;
}

}  // namespace cuda_shim

#define DDN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_shim::launch(kernel, #kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define DDN_OPAQUE(variable) static_cast<void>(variable)
#define DDN_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::cuda_shim::dynamic_shared())

template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute attribute, int value) {
  return cuda_shim::set_shared_limit(reinterpret_cast<const void*>(kernel), attribute, value);
}

// As default arguments these are the file and line of the caller.
#define DDN_SHIM_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuda_shim {

template <int bytes>
void copy_async(void* shared, const void* global, int valid = bytes, DDN_SHIM_CALLER) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  issue_copy(shared, global, bytes, valid, {"copy_async", file, line});
}
template <int pending = 0>
void wait_for_async_copies() {
  static_assert(pending >= 0);
  wait_for_copies(pending);
}

}  // namespace cuda_shim

inline void __syncthreads(DDN_SHIM_CALLER) {
  cuda_shim::sync_threads({"__syncthreads", file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffff, DDN_SHIM_CALLER) {
  cuda_shim::ballot({"__syncwarp", file, line}, mask, false);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, DDN_SHIM_CALLER) {
  return cuda_shim::shuffle({"__shfl_sync", file, line}, cuda_shim::Shuffle::index, mask, value,
                            source, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize, DDN_SHIM_CALLER) {
  return cuda_shim::shuffle({"__shfl_up_sync", file, line}, cuda_shim::Shuffle::up, mask, value, by,
                            width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize, DDN_SHIM_CALLER) {
  return cuda_shim::shuffle({"__shfl_down_sync", file, line}, cuda_shim::Shuffle::down, mask, value,
                            by, width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int by, int width = warpSize, DDN_SHIM_CALLER) {
  return cuda_shim::shuffle({"__shfl_xor_sync", file, line}, cuda_shim::Shuffle::exclusive_or, mask,
                            value, by, width);
}
inline unsigned __ballot_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::ballot({"__ballot_sync", file, line}, mask, value != 0);
}
inline int __any_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::ballot({"__any_sync", file, line}, mask, value != 0) != 0;
}
inline int __all_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::ballot({"__all_sync", file, line}, mask, value == 0) == 0;
}

inline int __reduce_add_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::reduce({"__reduce_add_sync", file, line}, mask, value,
                           [](int a, int b) { return a + b; });
}
inline int __reduce_max_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::reduce({"__reduce_max_sync", file, line}, mask, value,
                           [](int a, int b) { return a > b ? a : b; });
}
inline int __reduce_min_sync(unsigned mask, int value, DDN_SHIM_CALLER) {
  return cuda_shim::reduce({"__reduce_min_sync", file, line}, mask, value,
                           [](int a, int b) { return a < b ? a : b; });
}

// Threads are switched at collectives only.
template <class T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  const T old = *address;
  *address = old + value;
  return old;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline float __uint_as_float(unsigned x) {
  float y;
  memcpy(&y, &x, sizeof y);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  memcpy(&y, &x, sizeof y);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float(static_cast<unsigned>(x)); }
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
// Without the replication of signs, as the CUDA function.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned found = 0;
  for (int i = 0; i < 4; ++i) {
    found |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  }
  return found;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
