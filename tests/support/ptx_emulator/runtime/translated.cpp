#include "translated.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include "arithmetic.h"
#include "copies_in_flight.h"
#include "counters.h"
#include "memory.h"
#include "races.h"

namespace ptx {

int noise = 0;

namespace {

std::vector<const Kernel*>& kernels() {
  static std::vector<const Kernel*> all;
  return all;
}

// Peak resources over all launches of a kernel.
struct Use {
  unsigned max_threads, threads, static_shared;
};

std::map<const void*, const Kernel*> translated_kernels;  // of the kernels that the host compiled
std::map<std::string, u64> reports;                       // and how often
std::map<std::string, Use> uses;                          // by the kernel's mangled name

std::string describe(const std::string& what, const Where& where) {
  std::ostringstream out;
  out << what << " at " << where.file << ':' << where.line;
  if (*where.inlined_at != '\0') out << " in " << where.inlined_at;
  return out.str();
}

// The arguments of a launch, each aligned exactly as declared.
class Arguments {
 public:
  Arguments(const Kernel& kernel, const cuda_shim::Argument* arguments) {
    for (unsigned i = 0; i < kernel.num_parameters; ++i) {
      const auto [bytes, align] = kernel.parameters[i];
      storage_.emplace_back(bytes + 3 * align);
      auto at = (reinterpret_cast<u64>(storage_.back().data()) + align - 1) / align * align;
      if (at / align % 2 == 0) at += align;
      auto* const place = reinterpret_cast<unsigned char*>(at);
      memcpy(place, arguments[i].value, bytes);
      places_.push_back(place);
    }
  }
  const unsigned char* const* places() const { return places_.data(); }

 private:
  std::vector<std::vector<unsigned char>> storage_;
  std::vector<const unsigned char*> places_;
};

void run(const void* kernel, const char* name, dim3 grid, dim3 block, size_t shared_bytes,
         const cuda_shim::Argument* arguments, size_t num_arguments) {
  const auto found = translated_kernels.find(kernel);
  if (found == translated_kernels.end()) {
    cuda_shim::fail_launch(name, "no PTX of this kernel was translated");
    return;
  }
  const Kernel& translated = *found->second;
  bool same = num_arguments == translated.num_parameters;
  for (unsigned i = 0; same && i < translated.num_parameters; ++i) {
    same = arguments[i].bytes == translated.parameters[i].bytes;
  }
  if (!same) {
    cuda_shim::fail_launch(name, "its parameters differ between the host and PTX");
    return;
  }
  const unsigned threads = block.x * block.y * block.z;
  if (translated.max_threads != 0 && threads > translated.max_threads) {
    cuda_shim::fail_launch(name, "launched with " + std::to_string(threads) +
                                     " threads, compiled for " +
                                     std::to_string(translated.max_threads));
    return;
  }
  const size_t all_shared = translated.static_shared + shared_bytes;
  if (all_shared > static_cast<size_t>(cuda_shim::device().block_shared_bytes())) {
    cuda_shim::fail_launch(name, "launched with " + std::to_string(all_shared) +
                                     " bytes of static and dynamic shared memory");
    return;
  }
  Use& use = uses[translated.name];
  use.max_threads = translated.max_threads;
  use.threads = std::max(use.threads, threads);
  use.static_shared = translated.static_shared;

  const Arguments copies(translated, arguments);
  begin_launch(translated.static_shared, translated.dynamic_align, shared_bytes);
  // The counters learn the threads and blocks of the launch at its start.
  blockDim = block;
  counters::begin_launch(translated.name, translated.basic_blocks, static_cast<u32>(all_shared));
  for (unsigned i = 0; i < translated.num_parameters; ++i) {
    allow_argument(copies.places()[i], translated.parameters[i].bytes);
  }
  for (unsigned i = 0; i < translated.num_globals; ++i) {
    allow(translated.globals[i].begin, translated.globals[i].bytes, translated.globals[i].writable);
  }
  cuda_shim::run_grid(kernel, name, grid, block, shared_bytes, [&] {
    translated.run(copies.places());
    async_copies::end_thread();
  });
  counters::end_launch();
}

void begin_block_of_backend() {
  begin_block();
  async_copies::begin_block();
  races::barrier();
  counters::begin_block();
}
void barrier() {
  races::barrier();
  counters::next_epoch_of_all();
}
void warp_meets(unsigned warp, unsigned members, bool orders_memory) {
  races::warp_meets(warp, members, orders_memory);
  if (members == ~0u) counters::next_epoch(warp);
}

constexpr cuda_shim::Backend backend{run, begin_block_of_backend, barrier, warp_meets, allow};

}  // namespace

Registration::Registration(const Kernel& kernel) { kernels().push_back(&kernel); }

void fail(const std::string& what, const Where& where) {
  cuda_shim::fail_thread(describe(what, where));
}
void report(const std::string& what, const Where& where) { ++reports[describe(what, where)]; }

}  // namespace ptx

// ---- For ctypes ----

extern "C" {

// The mangled name of the i-th kernel, or null.
const char* ptx_kernel(unsigned i) {
  return i < ptx::kernels().size() ? ptx::kernels()[i]->name : nullptr;
}
// Replaces a kernel compiled for the host by the i-th kernel.
void ptx_bind(unsigned i, const void* host_kernel) {
  ptx::translated_kernels[host_kernel] = ptx::kernels()[i];
}
void ptx_use(int on) { cuda_shim::backend = on != 0 ? &ptx::backend : nullptr; }
void ptx_set_noise(int units) { ptx::noise = units; }
void ptx_allow(const void* begin, size_t bytes, int writable) {
  ptx::allow(begin, bytes, writable != 0);
}
void ptx_forbid_all() { ptx::forbid_all(); }
// The defects since the last call, one per line with its number of occurrences.
const char* ptx_reports() {
  static std::string text;
  std::ostringstream out;
  for (const auto& [what, times] : ptx::reports) out << times << " times: " << what << '\n';
  ptx::reports.clear();
  text = out.str();
  return text.c_str();
}
// The resources of launches as JSON: name: [.maxntid, threads, static, dynamic shared bytes].
const char* ptx_uses() {
  static std::string text;
  std::ostringstream out;
  out << '{';
  for (const auto& [name, use] : ptx::uses) {
    out << (out.tellp() > 1 ? "," : "") << '"' << name << "\":[" << use.max_threads << ','
        << use.threads << ',' << use.static_shared << ']';
  }
  out << '}';
  text = out.str();
  return text.c_str();
}
const char* ptx_counts() { return ptx::counters::json(); }
void ptx_clear_counts() { ptx::counters::clear(); }

}  // extern "C"
