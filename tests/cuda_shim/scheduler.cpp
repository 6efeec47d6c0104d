// Runs the threads of a block as fibers; see cuda_shim.h.
//
// A fiber is created with makecontext and from then on entered and left with _longjmp and _setjmp,
// which unlike swapcontext make no system call. It serves one thread of every block until an error
// leaves it in the middle of a kernel; then all are created anew.
#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "cuda_shim.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_shim {
namespace {

constexpr size_t page = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 64 * page;
#else
constexpr size_t stack_bytes = 16 * page;
#endif
constexpr unsigned max_warps = threads_limit / warpSize;

struct Fiber {
  jmp_buf context;
  uint3 index;
  char* stack;
};

// Masks of its lanes. A live lane is ready, at a collective of the warp, or at the block's barrier.
struct Warp {
  unsigned live, ready, waiting;
  Arrival* arrivals[warpSize];  // of the waiting lanes
};

struct State {
  Order order = Order::forward;
  uint64_t seed = 0, random = 0;
  cudaError_t last_error = cudaSuccess;
  std::string message;
  std::map<const void*, size_t> shared_limits;

  const char* kernel_name = "";
  const std::function<void()>* thread = nullptr;
  unsigned num_threads = 0;
  unsigned live = 0;         // threads of the block that have not returned
  unsigned at_barrier = 0;   // threads waiting there
  unsigned ready_warps = 0;  // mask of the warps with a ready lane
  Site barrier{};
  Warp warps[max_warps];

  unsigned current = 0;
  Fiber fibers[threads_limit];
  unsigned num_fibers = 0;
  char* stacks = nullptr;
  jmp_buf host;
  ucontext_t creator, created;
} state;

thread_local char anchor;  // a place in this library's thread-local storage

enum Outcome { finished = 1, failed = 2 };

std::string describe(const Site& site) {
  const char* slash = strrchr(site.file, '/');
  return std::string(site.name) + " at " + (slash ? slash + 1 : site.file) + ":" +
         std::to_string(site.line);
}
std::string describe(const Arrival& arrival) {
  char mask[32];
  snprintf(mask, sizeof mask, " with mask 0x%08x", arrival.mask);
  return describe(arrival.site) + mask;
}
std::string describe_thread(unsigned thread) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(blockIdx.x);
}

void record(cudaError_t code, const std::string& message) {
  state.last_error = code;
  if (state.message.empty()) state.message = std::string(state.kernel_name) + ": " + message;
}

// ---- switching ----

#if defined(__SANITIZE_ADDRESS__)
struct Sanitizer {
  const void* host_stack = nullptr;
  size_t host_bytes = 0;
  void leave(const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(nullptr, stack, bytes);
  }
  void leave_to_host() { leave(host_stack, host_bytes); }
  void enter_from_host() { __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_bytes); }
  void enter() { __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr); }
} sanitizer;
#else
struct Sanitizer {
  void leave(const void*, size_t) {}
  void leave_to_host() {}
  void enter_from_host() {}
  void enter() {}
} sanitizer;
#endif

[[noreturn]] void return_to_host(Outcome outcome) {
  sanitizer.leave_to_host();
  _longjmp(state.host, outcome);
}

[[noreturn]] void fail(const std::string& message) {
  record(cudaErrorLaunchFailure, message);
  return_to_host(failed);
}

unsigned random_below(unsigned n) {
  state.random ^= state.random << 13;
  state.random ^= state.random >> 7;
  state.random ^= state.random << 17;
  return static_cast<unsigned>((state.random >> 32) * n >> 32);
}

// One of the bits that are set, as the order has it.
unsigned choose(unsigned mask) {
  switch (state.order) {
    case Order::forward:
      return static_cast<unsigned>(__builtin_ctz(mask));
    case Order::reversed:
      return 31 - static_cast<unsigned>(__builtin_clz(mask));
    default:
      for (unsigned skip = random_below(__builtin_popcount(mask)); skip > 0; --skip) {
        mask &= mask - 1;
      }
      return static_cast<unsigned>(__builtin_ctz(mask));
  }
}

[[noreturn]] void report_deadlock();

unsigned next_thread() {
  if (state.ready_warps == 0) {
    if (state.live == 0) return_to_host(finished);
    report_deadlock();
  }
  const unsigned warp = choose(state.ready_warps);
  return warp * warpSize + choose(state.warps[warp].ready);
}

void enter_fiber(unsigned thread) {
  state.current = thread;
  threadIdx = state.fibers[thread].index;
}

// Goes on with another thread; returns when it is this one's turn again.
void yield() {
  const unsigned self = state.current, next = next_thread();
  if (next == self) return;
  if (_setjmp(state.fibers[self].context) == 0) {
    enter_fiber(next);
    sanitizer.leave(state.fibers[next].stack, stack_bytes);
    _longjmp(state.fibers[next].context, 1);
  }
  sanitizer.enter();
}

// ---- collectives ----

Warp& own_warp() { return state.warps[state.current / warpSize]; }

void make_ready(unsigned warp, unsigned lanes) {
  state.warps[warp].ready |= lanes;
  state.ready_warps |= 1u << warp;
}
void stop_self() {
  Warp& warp = own_warp();
  warp.ready &= ~(1u << lane());
  if (warp.ready == 0) state.ready_warps &= ~(1u << (state.current / warpSize));
}

// Hands out the results of a collective once every live lane of the mask waits at one.
void complete(unsigned warp_index, const Arrival& first) {
  Warp& warp = state.warps[warp_index];
  const unsigned members = first.mask & warp.live;
  if ((members & ~warp.waiting) != 0) return;
  unsigned votes = 0;
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const int member = __builtin_ctz(rest);
    const Arrival& a = *warp.arrivals[member];
    if (a.mask != first.mask || a.site.line != first.site.line ||
        strcmp(a.site.name, first.site.name) != 0 || a.bytes != first.bytes ||
        strcmp(a.site.file, first.site.file) != 0) {
      fail("lanes of warp " + std::to_string(warp_index) + " meet in different collectives: " +
           describe(first) + ", and lane " + std::to_string(member) + " in " + describe(a));
    }
    if (a.source == vote && *static_cast<const bool*>(a.value)) votes |= 1u << member;
  }
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const int member = __builtin_ctz(rest);
    const Arrival& a = *warp.arrivals[member];
    if (a.source == vote) {
      memcpy(a.result, &votes, sizeof votes);
      continue;
    }
    if ((members >> a.source & 1) == 0) {
      fail(describe(a) + ": lane " + std::to_string(member) + " of warp " +
           std::to_string(warp_index) + " reads from inactive lane " + std::to_string(a.source));
    }
    memcpy(a.result, warp.arrivals[a.source]->value, a.bytes);
  }
  warp.waiting &= ~members;
  make_ready(warp_index, members);
}

void thread_returns() {
  Warp& warp = own_warp();
  stop_self();
  --state.live;
  warp.live &= ~(1u << lane());
  // A collective waits for the lanes of its mask that have not returned.
  for (unsigned rest = warp.waiting; rest != 0; rest = rest & (rest - 1) & warp.waiting) {
    complete(state.current / warpSize, *warp.arrivals[__builtin_ctz(rest)]);
  }
}

void report_deadlock() {
  std::string text = "deadlock:";
  unsigned listed = 0;
  const auto add = [&](const std::string& line) {
    if (++listed <= 8) text += (listed == 1 ? " " : "; ") + line;
  };
  if (state.at_barrier > 0) {
    add(std::to_string(state.at_barrier) + " of " + std::to_string(state.num_threads) +
        " threads wait in " + describe(state.barrier));
  }
  if (state.live < state.num_threads) {
    add(std::to_string(state.num_threads - state.live) + " have returned");
  }
  for (unsigned w = 0; w * warpSize < state.num_threads; ++w) {
    const Warp& warp = state.warps[w];
    if (warp.waiting == 0) continue;
    const int waiting = __builtin_ctz(warp.waiting);
    const Arrival& a = *warp.arrivals[waiting];
    const unsigned missing = a.mask & warp.live & ~warp.waiting;
    add("lane " + std::to_string(waiting) + " of warp " + std::to_string(w) + " waits in " +
        describe(a) +
        (missing ? " for lane " + std::to_string(__builtin_ctz(missing)) : std::string()));
  }
  fail(text);
}

// ---- fibers ----

void fiber_main() {
  Fiber& self = state.fibers[state.current];
  if (_setjmp(self.context) == 0) {
    sanitizer.enter_from_host();
    sanitizer.leave_to_host();
    swapcontext(&state.created, &state.creator);
  }
  sanitizer.enter();
  for (;;) {
    (*state.thread)();
    thread_returns();
    yield();
  }
}

void create_fibers(unsigned count) {
  constexpr size_t stride = stack_bytes + page;  // the lowest page stays inaccessible
  if (state.stacks == nullptr) {
    void* memory = mmap(nullptr, threads_limit * stride, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    state.stacks = static_cast<char*>(memory);
  }
  for (; state.num_fibers < count; ++state.num_fibers) {
    Fiber& fiber = state.fibers[state.num_fibers];
    fiber.stack = state.stacks + state.num_fibers * stride + page;
    if (mprotect(fiber.stack, stack_bytes, PROT_READ | PROT_WRITE) != 0) abort();
    getcontext(&state.created);
    state.created.uc_stack.ss_sp = fiber.stack;
    // Stacks that begin at different cache sets: the fibers' live parts do not evict each other.
    state.created.uc_stack.ss_size = stack_bytes - state.num_fibers % 31 * 128;
    state.created.uc_link = nullptr;
    makecontext(&state.created, fiber_main, 0);
    state.current = state.num_fibers;
    sanitizer.leave(fiber.stack, stack_bytes);
    swapcontext(&state.creator, &state.created);
    sanitizer.enter();
  }
}

// ---- shared memory ----

constexpr unsigned char poison = 0xff;  // float and double NaN, and no sensible index
constexpr size_t margin = 256;          // poisoned bytes around the dynamic shared memory

struct SharedMemory {
  unsigned char* dynamic = nullptr;
  size_t dynamic_bytes = 0;
  void* fixed = nullptr;
  size_t fixed_bytes = 0;
  std::vector<unsigned char> storage;

  void allocate(size_t bytes) {
    dynamic_bytes = bytes;
#if defined(__SANITIZE_ADDRESS__)
    free(dynamic);
    dynamic = static_cast<unsigned char*>(malloc(bytes));
#else
    storage.resize(bytes + 2 * margin + 16);
    // Aligned to 16 bytes and, on purpose, to no more.
    const auto at = (reinterpret_cast<uintptr_t>(storage.data() + margin) | 31) - 15;
    dynamic = reinterpret_cast<unsigned char*>(at);
    dl_iterate_phdr(find_fixed, this);
#endif
  }

  // The thread-local storage of the module that this function is in.
  static int find_fixed(dl_phdr_info* info, size_t, void* self) {
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr)& header = info->dlpi_phdr[i];
      char* begin = static_cast<char*>(info->dlpi_tls_data);
      if (header.p_type != PT_TLS || begin == nullptr) continue;
      if (&anchor < begin || &anchor >= begin + header.p_memsz) continue;
      static_cast<SharedMemory*>(self)->fixed = begin;
      static_cast<SharedMemory*>(self)->fixed_bytes = header.p_memsz;
      return 1;
    }
    return 0;
  }

  void fill() {
    if (!storage.empty()) memset(storage.data(), poison, storage.size());
    if (dynamic_bytes > 0) memset(dynamic, poison, dynamic_bytes);
    if (fixed_bytes > 0) memset(fixed, poison, fixed_bytes);
  }

  bool overrun() const {
    const auto touched = [](unsigned char byte) { return byte != poison; };
    return !storage.empty() &&
           (std::any_of(storage.data(), const_cast<const unsigned char*>(dynamic), touched) ||
            std::any_of(dynamic + dynamic_bytes, dynamic + dynamic_bytes + margin, touched));
  }
} shared;

Outcome run_block() {
  shared.fill();
  const unsigned n = state.num_threads;
  state.live = n;
  state.at_barrier = 0;
  state.ready_warps = 0;
  for (unsigned w = 0; w * warpSize < n; ++w) {
    const unsigned lanes = std::min<unsigned>(warpSize, n - w * warpSize);
    state.warps[w].live = ~0u >> (warpSize - lanes);
    state.warps[w].ready = state.warps[w].waiting = 0;
    make_ready(w, state.warps[w].live);
  }
  switch (_setjmp(state.host)) {
    case 0: {
      const unsigned first = next_thread();
      enter_fiber(first);
      sanitizer.leave(state.fibers[first].stack, stack_bytes);
      _longjmp(state.fibers[first].context, 1);
    }
    case finished:
      sanitizer.enter();
      break;
    default:
      sanitizer.enter();
      state.num_fibers = 0;
      return failed;
  }
  if (shared.overrun()) {
    record(cudaErrorLaunchFailure, "block " + std::to_string(blockIdx.x) +
                                       " wrote outside its dynamic shared memory of " +
                                       std::to_string(shared.dynamic_bytes) + " bytes");
    return failed;
  }
  return finished;
}

bool check_launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const auto describe_size = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > threads_limit || block.z > 64) {
    record(cudaErrorInvalidConfiguration, "launched with a block of " + describe_size(block));
    return false;
  }
  if (grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 || grid.y > 65535 || grid.z == 0 ||
      grid.z > 65535) {
    record(cudaErrorInvalidConfiguration, "launched with a grid of " + describe_size(grid));
    return false;
  }
  const auto set = state.shared_limits.find(kernel);
  const size_t limit = set == state.shared_limits.end() ? shared_limit : set->second;
  if (shared_bytes > limit) {
    record(cudaErrorInvalidValue, "launched with " + std::to_string(shared_bytes) +
                                      " bytes of dynamic shared memory; limit " +
                                      std::to_string(limit));
    return false;
  }
  return true;
}

}  // namespace

unsigned lane() { return state.current % warpSize; }

void check_width(const Site& site, int width) {
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    fail(describe(site) + ": width " + std::to_string(width) + " is no power of two up to 32");
  }
}

void sync_threads(const Site& site) {
  if (state.at_barrier == 0) state.barrier = site;
  if (site.line != state.barrier.line || strcmp(site.file, state.barrier.file) != 0) {
    fail("divergent barriers: " + describe_thread(state.current) + " is in " + describe(site) +
         " while others are in " + describe(state.barrier));
  }
  stop_self();
  if (++state.at_barrier == state.num_threads) {
    state.at_barrier = 0;
    for (unsigned w = 0; w * warpSize < state.num_threads; ++w) make_ready(w, state.warps[w].live);
  }
  yield();
}

void sync_warp(Arrival& arrival) {
  Warp& warp = own_warp();
  if ((arrival.mask >> lane() & 1) == 0) {
    fail(describe(arrival) + ", which lacks its caller, " + describe_thread(state.current) +
         ", lane " + std::to_string(lane()));
  }
  warp.arrivals[lane()] = &arrival;
  warp.waiting |= 1u << lane();
  stop_self();
  complete(state.current / warpSize, arrival);
  yield();
}

void set_order(Order order, uint64_t seed) {
  state.order = order;
  state.seed = seed;
}
const char* error() { return state.message.c_str(); }
void clear_error() {
  state.message.clear();
  state.last_error = cudaSuccess;
}

cudaError_t set_shared_limit(const void* kernel, cudaFuncAttribute attribute, int bytes) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || bytes < 0 ||
      static_cast<size_t>(bytes) > shared_limit_opt_in) {
    record(cudaErrorInvalidValue,
           "cudaFuncSetAttribute: cannot allow " + std::to_string(bytes) + " bytes");
    return state.last_error;
  }
  state.shared_limits[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

void* dynamic_shared() { return shared.dynamic; }

void run_grid(const void* kernel, const char* name, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()>& thread) {
  state.kernel_name = name;
  if (!check_launch(kernel, grid, block, shared_bytes)) return;
  gridDim = grid;
  blockDim = block;
  state.thread = &thread;
  state.num_threads = block.x * block.y * block.z;
  state.random = state.seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
  create_fibers(state.num_threads);
  for (unsigned i = 0; i < state.num_threads; ++i) {
    state.fibers[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  }
  shared.allocate(shared_bytes);

  std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  if (state.order == Order::reversed) std::reverse(blocks.begin(), blocks.end());
  if (state.order == Order::random) {
    for (size_t i = blocks.size(); i > 1; --i) {
      std::swap(blocks[i - 1], blocks[random_below(static_cast<unsigned>(i))]);
    }
  }
  for (const uint64_t b : blocks) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    if (run_block() != finished) return;
  }
}

}  // namespace cuda_shim

cudaError_t cudaPeekAtLastError() { return cuda_shim::state.last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_shim::state.last_error;
  cuda_shim::state.last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "unspecified launch failure";
  }
}
