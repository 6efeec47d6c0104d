// Runs blocks one after the other, with the collectives of their threads; see cuda_shim.h.
#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "async_copies.h"
#include "cuda_shim.h"
#include "fibers.h"
#include "shared_memory.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_shim {
namespace {

// Masks of lanes. A live lane is ready, waits in a collective of the warp, or waits at the barrier.
struct Warp {
  unsigned live, ready, waiting;
  Arrival* arrivals[warpSize];  // of the waiting lanes
};

// The current block.
struct Block {
  const std::function<void()>* thread;
  unsigned num_threads;
  unsigned live;         // threads that have not returned
  unsigned ready_warps;  // mask of the warps that have a ready lane
  unsigned at_barrier;   // threads that wait there
  Site barrier;
  Warp warps[threads_limit / warpSize];
} block;

Order thread_order = Order::forward;
uint64_t random_seed = 0, random_state = 0;
unsigned most_blocks = INT32_MAX;
Device current_device;
std::set<const void*> launched_kernels;
std::map<const void*, size_t> shared_limits;
const char* kernel_name = "";
std::string first_error;
cudaError_t last_error = cudaSuccess;

// ---- Errors ----

void record(cudaError_t code, const std::string& message) {
  last_error = code;
  if (first_error.empty()) first_error = std::string(kernel_name) + ": " + message;
}

// Ends the launch from within a thread.
[[noreturn]] void fail(const std::string& message) {
  record(cudaErrorLaunchFailure, message);
  fibers::abandon();
}

std::string describe(const Site& site) {
  const char* slash = strrchr(site.file, '/');
  const std::string place = std::string(site.name) + " at " + (slash ? slash + 1 : site.file) +
                            ":" + std::to_string(site.line);
  return *site.inlined_at != '\0' ? place + " in " + site.inlined_at : place;
}
std::string describe(const Arrival& arrival) {
  char mask[32];
  snprintf(mask, sizeof mask, " with mask 0x%08x", arrival.mask);
  return describe(arrival.site) + mask;
}
std::string describe_lane(unsigned warp, unsigned lane) {
  return "lane " + std::to_string(lane) + " of warp " + std::to_string(warp);
}

bool same(const Site& a, const Site& b) {
  const auto equal = [](const char* x, const char* y) { return x == y || strcmp(x, y) == 0; };
  return a.line == b.line && a.copy == b.copy && equal(a.name, b.name) && equal(a.file, b.file);
}

// ---- Taking turns ----

unsigned random_below(size_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<unsigned>((random_state >> 32) * n >> 32);
}

// The position of one of the bits that are set.
unsigned choose(unsigned mask) {
  switch (thread_order) {
    case Order::forward:
      break;
    case Order::reversed:
      return 31 - static_cast<unsigned>(__builtin_clz(mask));
    case Order::random:
      for (auto skip = random_below(__builtin_popcount(mask)); skip > 0; --skip) mask &= mask - 1;
      break;
  }
  return static_cast<unsigned>(__builtin_ctz(mask));
}

unsigned own_warp() { return fibers::running / warpSize; }

void make_ready(unsigned warp, unsigned lanes) {
  block.warps[warp].ready |= lanes;
  if (block.warps[warp].ready != 0) block.ready_warps |= 1u << warp;
}

void stop_self() {
  Warp& warp = block.warps[own_warp()];
  warp.ready &= ~(1u << lane());
  if (warp.ready == 0) block.ready_warps &= ~(1u << own_warp());
}

[[noreturn]] void report_deadlock() {
  std::string text = "deadlock: of " + std::to_string(block.num_threads) + " threads " +
                     std::to_string(block.num_threads - block.live) + " have returned";
  if (block.at_barrier > 0) {
    text += ", " + std::to_string(block.at_barrier) + " wait in " + describe(block.barrier);
  }
  for (unsigned w = 0; w * warpSize < block.num_threads; ++w) {
    const Warp& warp = block.warps[w];
    if (warp.waiting == 0) continue;
    const auto lane = static_cast<unsigned>(__builtin_ctz(warp.waiting));
    const Arrival& arrival = *warp.arrivals[lane];
    text += ", " + describe_lane(w, lane) + " waits in " + describe(arrival);
    const unsigned missing = arrival.mask & warp.live & ~warp.waiting;
    if (missing != 0) text += " for lane " + std::to_string(__builtin_ctz(missing));
    break;  // one warp tells enough
  }
  fail(text);
}

unsigned choose_thread() {
  if (block.ready_warps == 0) report_deadlock();
  const unsigned warp = choose(block.ready_warps);
  return warp * warpSize + choose(block.warps[warp].ready);
}

void set_thread_index() {
  const unsigned i = fibers::running;
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}

// Switches to another thread until the caller is resumed.
void yield() {
  fibers::switch_to(choose_thread());
  set_thread_index();
}

// ---- Collectives of a warp ----

unsigned lanes_read(const Arrival& arrival) {
  if (arrival.source == gather) return arrival.mask;
  return arrival.source == vote ? 0 : 1u << arrival.source;
}

void check_members(unsigned w, unsigned members, const Arrival& first) {
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const auto member = static_cast<unsigned>(__builtin_ctz(rest));
    const Arrival& arrival = *block.warps[w].arrivals[member];
    if (arrival.mask != first.mask || arrival.bytes != first.bytes ||
        !same(arrival.site, first.site)) {
      fail("lanes of warp " + std::to_string(w) + " meet in different collectives: one is in " +
           describe(first) + ", lane " + std::to_string(member) + " in " + describe(arrival));
    }
    const unsigned read = lanes_read(arrival) & ~members;
    if (read != 0) {
      fail(describe(arrival) + ": " + describe_lane(w, member) + " reads from inactive lane " +
           std::to_string(__builtin_ctz(read)));
    }
  }
}

// Delivers the results once every lane of the mask that has not returned has arrived.
void complete(unsigned w, const Arrival& first) {
  Warp& warp = block.warps[w];
  const unsigned members = first.mask & warp.live;
  if ((members & ~warp.waiting) != 0) return;
  check_members(w, members, first);
  unsigned votes = 0;
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const Arrival& arrival = *warp.arrivals[__builtin_ctz(rest)];
    if (arrival.source == vote && *static_cast<const bool*>(arrival.value)) votes |= rest & -rest;
  }
  for (unsigned rest = members; rest != 0; rest &= rest - 1) {
    const Arrival& arrival = *warp.arrivals[__builtin_ctz(rest)];
    if (arrival.source == gather) {
      for (unsigned others = members; others != 0; others &= others - 1) {
        const auto other = static_cast<unsigned>(__builtin_ctz(others));
        memcpy(static_cast<char*>(arrival.result) + other * arrival.bytes,
               warp.arrivals[other]->value, arrival.bytes);
      }
      continue;
    }
    const void* value = arrival.source == vote ? &votes : warp.arrivals[arrival.source]->value;
    memcpy(arrival.result, value, arrival.bytes);
  }
  warp.waiting &= ~members;
  if (backend != nullptr) backend->warp_meets(w, members, first.orders_memory);
  make_ready(w, members);
}

void leave_block() {
  Warp& warp = block.warps[own_warp()];
  stop_self();
  warp.live &= ~(1u << lane());
  --block.live;
  // Completes the collectives that waited for this lane.
  for (unsigned rest = warp.waiting; rest != 0; rest &= (rest - 1) & warp.waiting) {
    complete(own_warp(), *warp.arrivals[__builtin_ctz(rest)]);
  }
}

// ---- Blocks and grids ----

// The main loop of a fiber: runs one thread of each block.
void run_thread() {
  set_thread_index();
  (*block.thread)();
  async_copies::end_thread();
  leave_block();
  if (block.live == 0) {
    fibers::leave();
  } else {
    fibers::switch_to(choose_thread());
  }
}

bool run_block() {
  shared_memory::poison();
  async_copies::begin_block();
  if (backend != nullptr) backend->begin_block();
  block.live = block.num_threads;
  block.ready_warps = 0;
  block.at_barrier = 0;
  for (unsigned w = 0; w * warpSize < block.num_threads; ++w) {
    const auto lanes = std::min<unsigned>(warpSize, block.num_threads - w * warpSize);
    block.warps[w].live = ~0u >> (warpSize - lanes);
    block.warps[w].ready = block.warps[w].waiting = 0;
    make_ready(w, block.warps[w].live);
  }
  if (!fibers::enter(choose_thread())) return false;
  if (!shared_memory::overrun()) return true;
  record(cudaErrorLaunchFailure,
         "block " + std::to_string(blockIdx.x) + " wrote outside its dynamic shared memory");
  return false;
}

bool check_launch(const void* kernel, dim3 grid, dim3 threads, size_t shared_bytes) {
  const auto describe_size = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  if (count == 0 || count > threads_limit || threads.z > 64) {
    record(cudaErrorInvalidConfiguration, "launched with a block of " + describe_size(threads));
    return false;
  }
  if (grid.x == 0 || grid.x > INT32_MAX || grid.y == 0 || grid.y > 65535 || grid.z == 0 ||
      grid.z > 65535) {
    record(cudaErrorInvalidConfiguration, "launched with a grid of " + describe_size(grid));
    return false;
  }
  const auto raised = shared_limits.find(kernel);
  const size_t limit = raised == shared_limits.end() ? shared_limit : raised->second;
  if (shared_bytes > limit) {
    record(cudaErrorInvalidValue, "launched with " + std::to_string(shared_bytes) +
                                      " bytes of dynamic shared memory where " +
                                      std::to_string(limit) + " are allowed");
    return false;
  }
  return true;
}

std::vector<uint64_t> order_blocks(uint64_t count) {
  std::vector<uint64_t> blocks(count);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  if (thread_order == Order::reversed) std::reverse(blocks.begin(), blocks.end());
  if (thread_order == Order::random) {
    for (size_t i = count; i > 1; --i) std::swap(blocks[i - 1], blocks[random_below(i)]);
  }
  return blocks;
}

}  // namespace

const Backend* backend = nullptr;

void fail_thread(const std::string& message) { fail(message); }
void fail_launch(const char* kernel, const std::string& message) {
  kernel_name = kernel;
  record(cudaErrorLaunchFailure, message);
}

void run_grid(const void* kernel, const char* name, dim3 grid, dim3 threads, size_t shared_bytes,
              const std::function<void()>& thread) {
  kernel_name = name;
  if (!check_launch(kernel, grid, threads, shared_bytes)) return;
  launched_kernels.insert(kernel);
  grid.x = std::min(grid.x, most_blocks);
  gridDim = grid;
  blockDim = threads;
  block.thread = &thread;
  block.num_threads = threads.x * threads.y * threads.z;
  random_state = random_seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
  fibers::create(block.num_threads, run_thread);
  shared_memory::allocate(shared_bytes);
  for (const uint64_t b : order_blocks(uint64_t{grid.x} * grid.y * grid.z)) {
    blockIdx = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                static_cast<unsigned>(b / grid.x / grid.y)};
    if (!run_block()) return;
  }
}

unsigned lane() { return fibers::running % warpSize; }

void sync_threads(const Site& site) {
  if (block.at_barrier == 0) block.barrier = site;
  if (!same(site, block.barrier)) {
    fail("divergent barriers: thread " + std::to_string(fibers::running) + " is in " +
         describe(site) + ", others in " + describe(block.barrier));
  }
  stop_self();
  if (++block.at_barrier == block.num_threads) {
    block.at_barrier = 0;
    if (backend != nullptr) backend->barrier();
    for (unsigned w = 0; w * warpSize < block.num_threads; ++w) {
      make_ready(w, block.warps[w].live);
    }
  }
  yield();
}

void sync_warp(Arrival& arrival) {
  Warp& warp = block.warps[own_warp()];
  if ((arrival.mask >> lane() & 1) == 0) {
    fail(describe(arrival) + " lacks its caller, " + describe_lane(own_warp(), lane()));
  }
  warp.arrivals[lane()] = &arrival;
  warp.waiting |= 1u << lane();
  stop_self();
  complete(own_warp(), arrival);
  yield();
}

void check_width(const Site& site, int width) {
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    fail(describe(site) + ": width " + std::to_string(width) + " is no power of two up to 32");
  }
}

void set_order(Order order, uint64_t seed) {
  thread_order = order;
  random_seed = seed;
}
void set_most_blocks(unsigned most) { most_blocks = most; }
const Device& device() { return current_device; }
void set_device(const Device& device) { current_device = device; }
bool was_launched(const void* kernel) { return launched_kernels.count(kernel) != 0; }
void forget_launches() { launched_kernels.clear(); }
const char* error() { return first_error.c_str(); }
void clear_error() {
  first_error.clear();
  last_error = cudaSuccess;
}

cudaError_t set_shared_limit(const void* kernel, cudaFuncAttribute attribute, int bytes) {
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || bytes < 0 ||
      bytes > current_device.block_shared_bytes()) {
    kernel_name = "cudaFuncSetAttribute";
    record(cudaErrorInvalidValue, "cannot allow " + std::to_string(bytes) + " bytes");
    return last_error;
  }
  shared_limits[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

}  // namespace cuda_shim

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidValue;
  const cuda_shim::Device& current = cuda_shim::device();
  *value =
      attribute == cudaDevAttrMultiProcessorCount ? current.multiprocessors : current.shared_bytes;
  return cudaSuccess;
}
cudaError_t cudaPeekAtLastError() { return cuda_shim::last_error; }
cudaError_t cudaGetLastError() { return std::exchange(cuda_shim::last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      break;
  }
  return "unspecified launch failure";
}
