// Asynchronous copies are performed by the wait for their group, the latest time that a GPU may
// choose. Until then the place is filled with NaN: it may change as soon as the copy is issued.
#include "async_copies.h"

#include <cstdint>
#include <string>

#include "copy_queue.h"
#include "cuda_shim.h"
#include "fibers.h"

namespace cuda_shim {
namespace {

struct Copy {
  void* shared;
  const void* global;
  size_t bytes, valid;
  Site site;
};
CopyQueue<Copy> queues[threads_limit];

[[noreturn]] void fail_at(const Site& site, const std::string& what) {
  const char* slash = strrchr(site.file, '/');
  fail_thread(what + " at " + (slash != nullptr ? slash + 1 : site.file) + ':' +
              std::to_string(site.line));
}

}  // namespace

void issue_copy(void* shared, const void* global, int bytes, int valid, const Site& site) {
  const auto misaligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<size_t>(bytes) != 0;
  };
  if (misaligned(shared) || misaligned(global)) fail_at(site, "misaligned asynchronous copy");
  if (valid < 0 || valid > bytes) fail_at(site, "asynchronous copy of more bytes than its size");
  memset(shared, 0xff, static_cast<size_t>(bytes));
  queues[fibers::running].add(
      {shared, global, static_cast<size_t>(bytes), static_cast<size_t>(valid), site});
}

void commit_async_copies() { queues[fibers::running].commit(); }

void wait_for_copies(int pending) {
  queues[fibers::running].wait(static_cast<size_t>(pending), [](const Copy& copy) {
    memset(copy.shared, 0, copy.bytes);
    memcpy(copy.shared, copy.global, copy.valid);
  });
}

namespace async_copies {

void begin_block() {
  for (auto& queue : queues) queue.clear();
}
void end_thread() {
  if (const Copy* copy = queues[fibers::running].first()) {
    fail_at(copy->site, "a thread exits without waiting for its asynchronous copy");
  }
}

}  // namespace async_copies
}  // namespace cuda_shim
