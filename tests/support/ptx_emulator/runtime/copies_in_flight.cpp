#include "copies_in_flight.h"

#include <algorithm>

#include "copy_queue.h"
#include "counters.h"
#include "memory.h"

namespace ptx::async_copies {
namespace {

struct Copy {
  u64 shared;
  const unsigned char* from;
  u32 bytes, valid;
  u32 ready;  // see counters.h
  Where where;
};
cuda_shim::CopyQueue<Copy> queues[max_threads];

}  // namespace

void issue(u64 shared, u64 global, u32 n, u32 valid, const Where& where) {
  if (valid > n) fail("asynchronous copy of more bytes than its size", where);
  const unsigned char* const from = begin_copy(shared, global, n, valid, where);
  const u32 ready = counters::enabled ? counters::issue_copy(valid) : 0;
  queues[thread()].add({shared, from, n, valid, ready, where});
}

void commit() { queues[thread()].commit(); }

void wait(u32 pending) {
  u32 bytes = 0, ready = 0;
  queues[thread()].wait(pending, [&](const Copy& copy) {
    unsigned char* const to = end_copy(copy.shared, copy.bytes);
    memset(to, 0, copy.bytes);
    memcpy(to, copy.from, copy.valid);
    bytes += copy.valid;
    ready = std::max(ready, copy.ready);
  });
  if (counters::enabled) counters::wait_for_copies(bytes, ready);
}

void begin_block() {
  for (auto& queue : queues) queue.clear();
}
void end_thread() {
  if (const Copy* copy = queues[thread()].first()) {
    report("a thread exits without waiting for its asynchronous copy", copy->where);
  }
}

}  // namespace ptx::async_copies
