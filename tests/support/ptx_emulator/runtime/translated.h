// Translated kernels, which replace those compiled for the host.
#pragma once

#include "types.h"

namespace ptx {

// A parameter of a kernel.
struct Parameter {
  unsigned bytes, align;
};

// A variable in global or constant memory.
struct Global {
  const void* begin;
  unsigned bytes;
  bool writable;
};

// A kernel as its PTX declares it.
struct Kernel {
  const char* name;  // mangled
  void (*run)(const unsigned char* const* arguments);
  const Parameter* parameters;
  unsigned num_parameters;
  const Global* globals;
  unsigned num_globals;
  unsigned static_shared, dynamic_align;
  unsigned max_threads;   // .maxntid, or 0
  unsigned basic_blocks;  // 0 without counters
};

// Registers a kernel before main().
struct Registration {
  explicit Registration(const Kernel& kernel);
};

}  // namespace ptx
