// A fiber is created with makecontext and then entered and left with _longjmp and _setjmp, which
// unlike swapcontext make no system call. Fibers outlive blocks and launches.
#include "fibers.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_shim::fibers {

unsigned running = 0;

namespace {

constexpr unsigned limit = 1024;
constexpr size_t page = 4096;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_bytes = 512 * page;
#else
constexpr size_t stack_bytes = 128 * page;  // unoptimised frames are large
#endif

struct Fiber {
  jmp_buf context;
  char* stack;
};

Fiber fibers[limit];
unsigned created = 0;
char* stacks = nullptr;
void (*thread_body)() = nullptr;
jmp_buf host;
ucontext_t creator, newborn;

enum Outcome { left = 1, abandoned = 2 };

// Notifies AddressSanitizer of stack switches.
#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
size_t host_stack_bytes = 0;
void leaving_for(const Fiber& fiber) {
  __sanitizer_start_switch_fiber(nullptr, fiber.stack, stack_bytes);
}
void leaving_for_host() { __sanitizer_start_switch_fiber(nullptr, host_stack, host_stack_bytes); }
void arrived() { __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr); }
void arrived_from_host() {
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
}
#else
void leaving_for(const Fiber&) {}
void leaving_for_host() {}
void arrived() {}
void arrived_from_host() {}
#endif

[[noreturn]] void jump(unsigned to) {
  running = to;
  leaving_for(fibers[to]);
  _longjmp(fibers[to].context, 1);
}

void main() {
  Fiber& self = fibers[running];
  if (_setjmp(self.context) == 0) {
    arrived_from_host();
    leaving_for_host();
    swapcontext(&newborn, &creator);
  }
  arrived();
  for (;;) thread_body();
}

}  // namespace

void create(unsigned count, void (*body)()) {
  constexpr size_t stride = stack_bytes + page;  // the lowest page stays inaccessible
  thread_body = body;
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, limit * stride, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    stacks = static_cast<char*>(memory);
  }
  for (; created < count; ++created) {
    Fiber& fiber = fibers[created];
    fiber.stack = stacks + created * stride + page;
    if (mprotect(fiber.stack, stack_bytes, PROT_READ | PROT_WRITE) != 0) abort();
    getcontext(&newborn);
    newborn.uc_stack.ss_sp = fiber.stack;
    // Stacks begin at different cache sets, so that the fibers do not evict each other.
    newborn.uc_stack.ss_size = stack_bytes - created % 31 * 128;
    newborn.uc_link = nullptr;
    makecontext(&newborn, main, 0);
    running = created;
    leaving_for(fiber);
    swapcontext(&creator, &newborn);
    arrived();
  }
}

bool enter(unsigned fiber) {
  switch (_setjmp(host)) {
    case 0:
      jump(fiber);
    case left:
      arrived();
      return true;
    default:
      arrived();
      created = 0;
      return false;
  }
}

void switch_to(unsigned fiber) {
  if (fiber == running) return;
  if (_setjmp(fibers[running].context) == 0) jump(fiber);
  arrived();
}

void leave() {
  if (_setjmp(fibers[running].context) == 0) {
    leaving_for_host();
    _longjmp(host, left);
  }
  arrived();
}

void abandon() {
  leaving_for_host();
  _longjmp(host, abandoned);
}

}  // namespace cuda_shim::fibers
