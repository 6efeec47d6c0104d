#include "memory.h"

#include <algorithm>
#include <vector>

#include "counters.h"
#include "races.h"

namespace ptx {

u64 dynamic_begin, shared_bytes;
unsigned char* shared_host;
Frame* frames[max_threads];

namespace {

struct Range {
  u64 begin, end;
  bool writable;

  bool holds(u64 a, unsigned n, bool store) const {
    return a >= begin && a <= end && n <= end - a && (writable || !store);
  }
};

std::vector<Range> ranges, arguments;
Range last_range{};
std::vector<u64> window;  // shared memory
std::vector<races::Word> words;

void check_alignment(u64 a, unsigned n, const char* what, const Where& where) {
  if ((a & (n - 1)) != 0) fail(what, where);
}

bool is_allowed(u64 a, unsigned n, bool store) {
  if (last_range.holds(a, n, store)) return true;
  for (const Range& range : ranges) {
    if (!range.holds(a, n, store)) continue;
    last_range = range;
    return true;
  }
  return false;
}

bool is_argument(u64 a, unsigned n) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [&](const Range& range) { return range.holds(a, n, false); });
}

unsigned char* in_global(u64 a, unsigned n, bool store, const Where& where) {
  check_alignment(a, n, "misaligned access to global memory", where);
  if (!is_allowed(a, n, store)) {
    fail(store ? "store to global memory out of bounds" : "load of global memory out of bounds",
         where);
  }
  return reinterpret_cast<unsigned char*>(a);
}

// touch(word, mask of its bytes), for each word of four bytes.
template <class Touch>
unsigned char* in_shared(u64 a, unsigned n, u32 used, const Where& where, const Touch& touch) {
  const u64 offset = a - shared_begin;
  if (offset >= shared_bytes || n > shared_bytes - offset) {
    fail("access to shared memory out of bounds", where);
  }
  check_alignment(a, n, "misaligned access to shared memory", where);
  for (unsigned at = 0; at < n;) {
    const unsigned first = (offset + at) % 4, count = std::min(4 - first, n - at);
    touch(words[(offset + at) / 4], (used >> at & ((1u << count) - 1)) << first);
    at += count;
  }
  return shared_host + offset;
}

Frame* frame_at(u64 a) {
  for (Frame* frame = frames[thread()]; frame != nullptr; frame = frame->below) {
    if (a >= frame->begin && a < frame->end) return frame;
  }
  return nullptr;
}

unsigned char* in_local(const Frame* frame, u64 a, unsigned n, const Where& where) {
  if (frame == nullptr || n > frame->end - a) {
    fail("access to local memory out of bounds", where);
  }
  check_alignment(a, n, "misaligned access to local memory", where);
  return reinterpret_cast<unsigned char*>(a);
}
const unsigned char* load_frame(const Frame* frame, u64 a, unsigned n, u32 used,
                                const Where& where) {
  const unsigned char* const found = in_local(frame, a, n, where);
  const unsigned char* const written = frame->written + (a - frame->begin);
  // A copy of an object reads its padding: some of eight bytes need not have been written.
  for (unsigned begin = 0; begin < n; begin += 8) {
    bool any_used = false, any_written = false;
    for (unsigned i = begin; i < std::min(begin + 8, n); ++i) {
      any_used |= (used >> i & 1) != 0;
      any_written |= written[i] != 0;
    }
    if (any_used && !any_written) report("reads local memory that was never written", where);
  }
  return found;
}
unsigned char* store_frame(const Frame* frame, u64 a, unsigned n, const Where& where) {
  unsigned char* const found = in_local(frame, a, n, where);
  memset(frame->written + (a - frame->begin), 1, n);
  return found;
}

bool is_shared(u64 a) { return a - reinterpret_cast<u64>(shared_host) < shared_bytes; }

}  // namespace

const unsigned char* load_global(u64 a, unsigned n, const Where& where, u32) {
  if (counters::enabled) {
    if (is_argument(a, n)) {
      counters::no_access();
    } else {
      counters::note_access(counters::Kind::global_load, a, n);
    }
  }
  return in_global(a, n, false, where);
}
unsigned char* store_global(u64 a, unsigned n, const Where& where) {
  counters::access(counters::Kind::global_store, a, n);
  return in_global(a, n, true, where);
}
unsigned char* atomic_global(u64 a, unsigned n, const Where& where) {
  counters::access(counters::Kind::global_atomic, a, n);
  return in_global(a, n, true, where);
}

const unsigned char* load_shared(u64 a, unsigned n, const Where& where, u32 used) {
  counters::access(counters::Kind::shared_load, a, n);
  return in_shared(a, n, used, where,
                   [&](races::Word& word, u32 bytes) { races::load(word, bytes, where); });
}
unsigned char* store_shared(u64 a, unsigned n, const Where& where) {
  counters::access(counters::Kind::shared_store, a, n);
  return in_shared(a, n, all_bytes, where,
                   [&](races::Word& word, u32 bytes) { races::store(word, bytes, where); });
}
unsigned char* atomic_shared(u64 a, unsigned n, const Where& where) {
  counters::access(counters::Kind::shared_atomic, a, n);
  return in_shared(a, n, all_bytes, where,
                   [&](races::Word& word, u32 bytes) { races::atomic(word, bytes, where); });
}

const unsigned char* begin_copy(u64 shared, u64 global, unsigned n, unsigned valid,
                                const Where& where) {
  if (valid > 0) counters::access(counters::Kind::global_load, global, valid);
  counters::access(counters::Kind::shared_store, shared, n);
  check_alignment(global, n, "misaligned access to global memory", where);
  if (valid > 0 && !is_allowed(global, valid, false)) {
    fail("load of global memory out of bounds", where);
  }
  in_shared(shared, n, all_bytes, where,
            [&](races::Word& word, u32 bytes) { races::begin_copy(word, bytes, where); });
  return reinterpret_cast<const unsigned char*>(global);
}
unsigned char* end_copy(u64 shared, unsigned n) {
  return in_shared(shared, n, all_bytes, Where{},
                   [](races::Word& word, u32 bytes) { races::end_copy(word, bytes); });
}

const unsigned char* load_local(u64 a, unsigned n, const Where& where, u32 used) {
  return load_frame(frame_at(a), a, n, used, where);
}
unsigned char* store_local(u64 a, unsigned n, const Where& where) {
  return store_frame(frame_at(a), a, n, where);
}

const unsigned char* load_generic(u64 a, unsigned n, const Where& where, u32 used) {
  if (is_shared(a)) return load_shared(shared_from_generic(a), n, where, used);
  if (const Frame* frame = frame_at(a)) return load_frame(frame, a, n, used, where);
  return load_global(a, n, where, used);
}
unsigned char* store_generic(u64 a, unsigned n, const Where& where) {
  if (is_shared(a)) return store_shared(shared_from_generic(a), n, where);
  if (const Frame* frame = frame_at(a)) return store_frame(frame, a, n, where);
  return store_global(a, n, where);
}
unsigned char* atomic_generic(u64 a, unsigned n, const Where& where) {
  if (is_shared(a)) return atomic_shared(shared_from_generic(a), n, where);
  return atomic_global(a, n, where);
}

void allow(const void* begin, size_t bytes, bool writable) {
  ranges.push_back({reinterpret_cast<u64>(begin), reinterpret_cast<u64>(begin) + bytes, writable});
}
void allow_argument(const void* begin, size_t bytes) {
  allow(begin, bytes, false);
  arguments.push_back(ranges.back());
}
void forbid_all() {
  ranges.clear();
  last_range = {};
}

void begin_launch(unsigned static_bytes, unsigned dynamic_align, size_t dynamic_bytes) {
  arguments.clear();
  u64 at = (shared_begin + static_bytes + dynamic_align - 1) / dynamic_align * dynamic_align;
  if (at / dynamic_align % 2 == 0) at += dynamic_align;
  dynamic_begin = at;
  shared_bytes = at - shared_begin + dynamic_bytes;
  window.assign(shared_bytes / 8 + 1, 0);
  words.resize(shared_bytes / 4 + 1);
  shared_host = reinterpret_cast<unsigned char*>(window.data());
}

void begin_block() {
  std::fill(window.begin(), window.end(), ~0ull);  // NaN, whatever the type
  std::fill(words.begin(), words.end(), races::Word{});
  std::fill(frames, frames + max_threads, nullptr);
}

}  // namespace ptx
