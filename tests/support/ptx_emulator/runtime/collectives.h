// Barriers, shuffles, votes and reductions, by the collectives of the host shim.
#pragma once

#include "types.h"

namespace ptx {

// All lanes of a warp must execute the same instruction, not only the same source line.
inline cuda_shim::Site site_of(const char* name, const Where& where) {
  return {name, where.file, where.line, where.ptx_line, where.inlined_at};
}

inline void bar_sync(const Where& where) { cuda_shim::sync_threads(site_of("bar.sync", where)); }

inline u32 meet(cuda_shim::Arrival arrival) {
  u32 result = 0;
  arrival.result = &result;
  cuda_shim::sync_warp(arrival);
  return result;
}
inline u32 ballot(const char* name, u32 mask, bool value, const Where& where,
                  bool orders_memory = false) {
  return meet(
      {site_of(name, where), mask, &value, nullptr, sizeof(u32), cuda_shim::vote, orders_memory});
}
inline void bar_warp_sync(u32 mask, const Where& where) {
  ballot("bar.warp.sync", mask, false, where, /*orders_memory=*/true);
}
inline u32 vote_ballot(bool x, u32 mask, const Where& where) {
  return ballot("vote.sync.ballot", mask, x, where);
}
inline bool vote_any(bool x, u32 mask, const Where& where) {
  return ballot("vote.sync.any", mask, x, where) != 0;
}
inline bool vote_all(bool x, u32 mask, const Where& where) {
  return ballot("vote.sync.all", mask, !x, where) == 0;
}

inline u32 exchange(const char* name, u32 mask, u32 value, int source, const Where& where) {
  return meet({site_of(name, where), mask, &value, nullptr, sizeof value, source});
}

// The first lane and the clamp of this lane's segment, from operands b and c of shfl.
struct Segment {
  int self, first, clamp;
  explicit Segment(u32 c) {
    const u32 lane = cuda_shim::lane(), mask = c >> 8 & 31;
    self = static_cast<int>(lane);
    first = static_cast<int>(lane & mask);
    clamp = static_cast<int>((lane & mask) | (c & 31 & ~mask));
  }
};
// in_range: whether the source lies in the segment; otherwise the lane reads its own value.
inline u32 shuffle(const char* name, u32 a, int source, bool in_range, u32 mask, bool& predicate,
                   const Segment& segment, const Where& where) {
  predicate = in_range;
  return exchange(name, mask, a, in_range ? source : segment.self, where);
}
inline u32 shfl_bfly(u32 a, u32 b, u32 c, u32 mask, bool& in, const Where& where) {
  const Segment segment(c);
  const int source = segment.self ^ static_cast<int>(b & 31);
  return shuffle("shfl.sync.bfly", a, source, source <= segment.clamp, mask, in, segment, where);
}
inline u32 shfl_idx(u32 a, u32 b, u32 c, u32 mask, bool& in, const Where& where) {
  const Segment segment(c);
  const int source = segment.first | static_cast<int>(b & 31 & ~(c >> 8));
  return shuffle("shfl.sync.idx", a, source, source <= segment.clamp, mask, in, segment, where);
}
inline u32 shfl_up(u32 a, u32 b, u32 c, u32 mask, bool& in, const Where& where) {
  const Segment segment(c);
  const int source = segment.self - static_cast<int>(b & 31);
  return shuffle("shfl.sync.up", a, source, source >= segment.clamp, mask, in, segment, where);
}
inline u32 shfl_down(u32 a, u32 b, u32 c, u32 mask, bool& in, const Where& where) {
  const Segment segment(c);
  const int source = segment.self + static_cast<int>(b & 31);
  return shuffle("shfl.sync.down", a, source, source <= segment.clamp, mask, in, segment, where);
}

template <class T, class Combine>
T redux(const char* name, T x, u32 mask, const Where& where, const Combine& combine) {
  T all{};
  bool first = true;
  for (int i = 0; i < 32; ++i) {
    if ((mask >> i & 1) == 0) continue;
    const T other = static_cast<T>(exchange(name, mask, static_cast<u32>(x), i, where));
    all = first ? other : combine(all, other);
    first = false;
  }
  return all;
}
template <class T>
T redux_add(T x, u32 mask, const Where& where) {
  return redux("redux.sync.add", x, mask, where,
               [](T a, T b) { return static_cast<T>(static_cast<u32>(a) + static_cast<u32>(b)); });
}
template <class T>
T redux_min(T x, u32 mask, const Where& where) {
  return redux("redux.sync.min", x, mask, where, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
T redux_max(T x, u32 mask, const Where& where) {
  return redux("redux.sync.max", x, mask, where, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
T redux_and(T x, u32 mask, const Where& where) {
  return redux("redux.sync.and", x, mask, where, [](T a, T b) { return static_cast<T>(a & b); });
}
template <class T>
T redux_or(T x, u32 mask, const Where& where) {
  return redux("redux.sync.or", x, mask, where, [](T a, T b) { return static_cast<T>(a | b); });
}
template <class T>
T redux_xor(T x, u32 mask, const Where& where) {
  return redux("redux.sync.xor", x, mask, where, [](T a, T b) { return static_cast<T>(a ^ b); });
}

}  // namespace ptx
