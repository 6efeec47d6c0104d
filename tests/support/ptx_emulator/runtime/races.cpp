#include "races.h"

namespace ptx::races {
namespace {

// Meetings of threads that order memory, and all meetings.
enum Strength { ordering, any, strengths };

u64 now = 0, last_barrier = 0;
u64 of_warp[strengths][max_warps];           // the last meeting of all lanes
u64 of_lanes[strengths][max_warps][32][32];  // of two lanes

bool ordered(Strength strength, const Access& earlier) {
  const unsigned self = thread(), other = static_cast<unsigned>(earlier.thread), warp = self / 32;
  if (self == other || last_barrier > earlier.time) return true;
  if (other / 32 != warp) return false;
  return of_warp[strength][warp] > earlier.time ||
         of_lanes[strength][warp][other % 32][self % 32] > earlier.time;
}

void check(const Access& earlier, u32 bytes, const char* what, const Where& where) {
  if ((earlier.bytes & bytes) == 0 || ordered(ordering, earlier)) return;
  if (ordered(any, earlier)) {
    report(std::string("weakly ordered: ") + what +
               ", with no barrier but a shuffle, vote or reduction between",
           where);
  } else {
    report(std::string("race: ") + what + ", with no barrier between", where);
  }
}

bool races_with_copy(const Word& word, u32 bytes, const char* what, const Where& where) {
  if ((word.copy.bytes & bytes) == 0) return false;
  report(std::string("race: ") + what + " an asynchronous copy in flight writes", where);
  return true;
}

void check_store(const Word& word, u32 bytes, const Where& where) {
  check(word.store, bytes, "overwrites what another thread stored", where);
  check(word.load, bytes, "overwrites what another thread read", where);
  check(word.other_load, bytes, "overwrites what another thread read", where);
  check(word.atomic, bytes, "overwrites what another thread's atomic stored", where);
}

}  // namespace

void load(Word& word, u32 bytes, const Where& where) {
  if (races_with_copy(word, bytes, "reads what", where)) return;
  if ((word.written & bytes) != bytes) report("reads shared memory that was never written", where);
  check(word.store, bytes, "reads what another thread stored", where);
  check(word.atomic, bytes, "reads what another thread's atomic stored", where);
  const s32 self = static_cast<s32>(thread());
  if (word.load.thread != self) word.other_load = word.load;
  word.load = {self, bytes, now};
}

void store(Word& word, u32 bytes, const Where& where) {
  races_with_copy(word, bytes, "overwrites what", where);
  word.written |= bytes;
  check_store(word, bytes, where);
  word.store = {static_cast<s32>(thread()), bytes, now};
}

void atomic(Word& word, u32 bytes, const Where& where) {
  if (races_with_copy(word, bytes, "an atomic on what", where)) return;
  if ((word.written & bytes) != bytes) {
    report("an atomic on shared memory that was never written", where);
  }
  check(word.store, bytes, "an atomic on what another thread stored", where);
  check(word.load, bytes, "an atomic on what another thread read", where);
  check(word.other_load, bytes, "an atomic on what another thread read", where);
  word.atomic = {static_cast<s32>(thread()), bytes, now};
}

void begin_copy(Word& word, u32 bytes, const Where& where) {
  races_with_copy(word, bytes, "overwrites what", where);
  check_store(word, bytes, where);
  word.copy = {static_cast<s32>(thread()), bytes, now};
}

void end_copy(Word& word, u32 bytes) {
  word.written |= bytes;
  word.store = {static_cast<s32>(thread()), bytes, now};
  word.copy = {};
}

void barrier() { last_barrier = ++now; }

void warp_meets(unsigned warp, u32 members, bool orders_memory) {
  ++now;
  for (int strength = orders_memory ? ordering : any; strength < strengths; ++strength) {
    if (members == ~0u) {
      of_warp[strength][warp] = now;
      continue;
    }
    for (unsigned i = 0; i < 32; ++i) {
      for (unsigned j = 0; j < 32; ++j) {
        if ((members >> i & members >> j & 1) != 0) of_lanes[strength][warp][i][j] = now;
      }
    }
  }
}

}  // namespace ptx::races
