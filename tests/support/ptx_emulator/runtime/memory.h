// The memory of translated PTX. Each access is checked for alignment, for bounds of the memory that
// the launch may access and, in shared and local memory, for reads of uninitialised bytes. Shared
// memory is also checked for races; see races.h.
//
// Global addresses are the host's. Shared memory is a window of its own, whose addresses begin at
// shared_begin; converted to generic ones they are the host's too. Objects are aligned exactly as
// declared, not more strictly.
#pragma once

#include "types.h"

namespace ptx {

enum class Space { global, shared, local };

// The first address of the window and of its dynamic part.
constexpr u64 shared_begin = 1024;
extern u64 dynamic_begin;
extern unsigned char* shared_host;
extern u64 shared_bytes;
inline u64 generic_from_shared(u64 a) {
  return reinterpret_cast<u64>(shared_host) + (a - shared_begin);
}
inline u64 shared_from_generic(u64 a) {
  return a - reinterpret_cast<u64>(shared_host) + shared_begin;
}

// The mask of the bytes of a load that are used; a vector load may have unused bytes.
constexpr u32 all_bytes = ~0u;

// The host address of n bytes.
const unsigned char* load_global(u64 a, unsigned n, const Where& where, u32 used = all_bytes);
unsigned char* store_global(u64 a, unsigned n, const Where& where);
unsigned char* atomic_global(u64 a, unsigned n, const Where& where);
const unsigned char* load_shared(u64 a, unsigned n, const Where& where, u32 used = all_bytes);
unsigned char* store_shared(u64 a, unsigned n, const Where& where);
unsigned char* atomic_shared(u64 a, unsigned n, const Where& where);
const unsigned char* load_local(u64 a, unsigned n, const Where& where, u32 used = all_bytes);
unsigned char* store_local(u64 a, unsigned n, const Where& where);
const unsigned char* load_generic(u64 a, unsigned n, const Where& where, u32 used = all_bytes);
unsigned char* store_generic(u64 a, unsigned n, const Where& where);
unsigned char* atomic_generic(u64 a, unsigned n, const Where& where);

// The source of an asynchronous copy, and later the place in shared memory: n bytes, of which
// `valid` are read. With none, the global address is only checked for its alignment.
const unsigned char* begin_copy(u64 shared, u64 global, unsigned n, unsigned valid,
                                const Where& where);
unsigned char* end_copy(u64 shared, unsigned n);

// Threads are switched at collectives only, so this is atomic.
template <class T, class F>
T read_modify_write(unsigned char* at, const F& f) {
  T old;
  memcpy(&old, at, sizeof old);
  const T now = f(old);
  memcpy(at, &now, sizeof now);
  return old;
}
template <class T>
T atom_add(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T old) { return static_cast<T>(old + x); });
}
template <class T>
T atom_min(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T old) { return old < x ? old : x; });
}
template <class T>
T atom_max(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T old) { return old > x ? old : x; });
}
template <class T>
T atom_and(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T old) { return static_cast<T>(old & x); });
}
template <class T>
T atom_or(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T old) { return static_cast<T>(old | x); });
}
template <class T>
T atom_exch(unsigned char* at, T x) {
  return read_modify_write<T>(at, [&](T) { return x; });
}
template <class T>
T atom_cas(unsigned char* at, T expected, T x) {
  return read_modify_write<T>(at, [&](T old) { return old == expected ? x : old; });
}

// Local memory, declared by the functions of a thread.
struct Frame {
  u64 begin, end;
  unsigned char* written;  // for each byte
  Frame* below;
};
extern Frame* frames[max_threads];
template <int bytes, int align>
struct FrameOf : Frame {
  alignas(2 * align) unsigned char storage[bytes + align];
  unsigned char flags[bytes];
  FrameOf() {
    begin = reinterpret_cast<u64>(storage + align);
    end = begin + bytes;
    written = flags;
    memset(storage, 0xff, sizeof storage);
    memset(flags, 0, sizeof flags);
    below = frames[thread()];
    frames[thread()] = this;
  }
  FrameOf(const FrameOf&) = delete;
  FrameOf& operator=(const FrameOf&) = delete;
  ~FrameOf() { frames[thread()] = below; }
};

// For translated.cpp. The memory that kernels may touch, besides the arguments of a launch and what
// their own files declare, lies in the ranges that the host has allowed.
void allow(const void* begin, size_t bytes, bool writable);
// Arguments may be read and are not in global memory: their loads are not counted.
void allow_argument(const void* begin, size_t bytes);
void forbid_all();
void begin_launch(unsigned static_bytes, unsigned dynamic_align, size_t dynamic_bytes);
void begin_block();

}  // namespace ptx
