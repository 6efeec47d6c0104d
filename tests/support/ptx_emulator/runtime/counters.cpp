#include "counters.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <unordered_set>
#include <vector>

namespace ptx::counters {

bool enabled = false;
u32 access_number, access_passing, copy_position;

namespace {

// The number of passings of a basic block by a lane or warp in an epoch.
struct Passed {
  u32 epoch = 0, times = 0;
};

// A memory access of a lane.
struct Access {
  u32 number, passing;
  u64 address;
  u8 lane, bytes;
  Kind kind;
};

struct Traffic {
  u64 requests = 0, bytes = 0, transactions = 0, least = 0, conflicts = 0;
};

struct Counts {
  u64 launches = 0, blocks = 0, warps = 0, threads = 0, shared_bytes = 0;
  std::vector<u64> warp_passes, lane_passes;  // by basic block
  Traffic traffic[kinds];
  u64 load_chain = 0, block_load_chain = 0;
  u64 lane_instructions = 0, bytes_in_flight = 0;  // the latter summed over the former
  u64 block_sectors = 0, block_stored_sectors = 0, launch_sectors = 0, launch_stored_sectors = 0;
};

std::map<std::string, Counts> all_counts;  // by the kernel's mangled name
Counts* counts = nullptr;                  // of the launch
u32 num_basic_blocks = 0;
unsigned threads_of_block = 0;
std::vector<Passed> lane_passed, warp_passed;  // [threads or warps][basic blocks]
u32 epochs[max_warps], last_epoch = 0;
std::vector<Access> accesses[max_warps];  // of the epoch
std::unordered_set<u64> block_sectors, block_stored, launch_sectors, launch_stored;

// Of a lane: its time, the bytes in flight by loads and by asynchronous copies, and the number of
// instructions of its basic block for which these bytes have been counted.
struct Lane {
  u32 time = 0, in_flight = 0, copied = 0, counted = 0, instructions = 0;

  void count_until(u32 position) {
    counts->bytes_in_flight += (u64{in_flight} + copied) * (position - counted);
    counted = position;
  }
};
Lane lanes[max_threads];
// Whether the last load was from global memory, and its size.
bool loaded_global = false;
u32 loaded_bytes = 0;

// The largest number of equal neighbours.
u64 longest_run(const std::vector<u64>& sorted) {
  u64 most = 0, run = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    run = i > 0 && sorted[i] == sorted[i - 1] ? run + 1 : 1;
    most = std::max(most, run);
  }
  return most;
}

// The units of `size` bytes that the accesses touch, sorted; a unit once for each access.
std::vector<u64> touched(const Access* first, const Access* last, u64 size) {
  std::vector<u64> units;
  for (const Access* a = first; a != last; ++a) {
    const u64 end = (a->address + a->bytes - 1) / size;
    for (u64 unit = a->address / size; unit <= end; ++unit) units.push_back(unit);
  }
  std::sort(units.begin(), units.end());
  return units;
}

void add_global(Traffic& traffic, const Access* first, const Access* last) {
  if (first->kind == Kind::global_atomic) traffic.conflicts += longest_run(touched(first, last, 4));
  std::vector<u64> sectors = touched(first, last, 32);
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  traffic.transactions += sectors.size();
  const bool stores = first->kind != Kind::global_load;
  (stores ? block_stored : block_sectors).insert(sectors.begin(), sectors.end());
  (stores ? launch_stored : launch_sectors).insert(sectors.begin(), sectors.end());
}

void add_shared(Traffic& traffic, const Access* first, const Access* last) {
  constexpr unsigned banks = 32;
  std::vector<u64> words = touched(first, last, 4);
  if (first->kind == Kind::shared_atomic) traffic.conflicts += longest_run(words);
  words.erase(std::unique(words.begin(), words.end()), words.end());
  unsigned in_bank[banks] = {}, most = 0;
  for (const u64 word : words) most = std::max(most, ++in_bank[word % banks]);
  traffic.transactions += most;
  traffic.least += (words.size() + banks - 1) / banks;
}

// The accesses of one instruction and passing are one request of the warp.
void add_requests(unsigned warp) {
  std::vector<Access>& all = accesses[warp];
  const auto key = [](const Access& a) {
    return std::make_tuple(a.number, a.kind, a.passing, a.lane);
  };
  std::sort(all.begin(), all.end(),
            [&](const Access& a, const Access& b) { return key(a) < key(b); });
  const Access* const end = all.data() + all.size();
  for (const Access* first = all.data(); first != end;) {
    const Access* last = first + 1;
    while (last != end && last->number == first->number && last->kind == first->kind &&
           last->passing == first->passing && last->lane != last[-1].lane) {
      ++last;
    }
    Traffic& traffic = counts->traffic[static_cast<int>(first->kind)];
    ++traffic.requests;
    for (const Access* a = first; a != last; ++a) traffic.bytes += a->bytes;
    if (first->kind <= Kind::global_atomic) {
      add_global(traffic, first, last);
    } else {
      add_shared(traffic, first, last);
    }
    first = last;
  }
  all.clear();
}

void end_block() {
  if (threads_of_block == 0) return;
  u32 longest = 0;
  for (unsigned w = 0; w * 32 < threads_of_block; ++w) {
    add_requests(w);
    u32 of_warp = 0;
    for (unsigned i = w * 32; i < std::min(threads_of_block, w * 32 + 32); ++i) {
      of_warp = std::max(of_warp, lanes[i].time);
    }
    counts->load_chain += of_warp;
    longest = std::max(longest, of_warp);
  }
  counts->block_load_chain += longest;
  counts->block_sectors += block_sectors.size();
  counts->block_stored_sectors += block_stored.size();
  block_sectors.clear();
  block_stored.clear();
  threads_of_block = 0;
}

void write(std::ostream& out, const std::vector<u64>& numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) out << (i > 0 ? "," : "") << numbers[i];
}

void write(std::ostream& out, const Counts& c) {
  out << R"({"launches":)" << c.launches << R"(,"blocks":)" << c.blocks << R"(,"warps":)" << c.warps
      << R"(,"threads":)" << c.threads << R"(,"shared_bytes":)" << c.shared_bytes
      << R"(,"load_chain":)" << c.load_chain << R"(,"block_load_chain":)" << c.block_load_chain
      << R"(,"lane_instructions":)" << c.lane_instructions << R"(,"bytes_in_flight":)"
      << c.bytes_in_flight << R"(,"block_sectors":)" << c.block_sectors
      << R"(,"block_stored_sectors":)" << c.block_stored_sectors << R"(,"launch_sectors":)"
      << c.launch_sectors << R"(,"launch_stored_sectors":)" << c.launch_stored_sectors
      << R"(,"traffic":[)";
  for (int k = 0; k < kinds; ++k) {
    const Traffic& t = c.traffic[k];
    out << (k > 0 ? "," : "") << '[' << t.requests << ',' << t.bytes << ',' << t.transactions << ','
        << t.least << ',' << t.conflicts << ']';
  }
  out << R"(],"warp_passes":[)";
  write(out, c.warp_passes);
  out << R"(],"lane_passes":[)";
  write(out, c.lane_passes);
  out << "]}";
}

}  // namespace

u32 enter_block(u32 b, u32 instructions) {
  const unsigned t = thread(), w = t / 32;
  Passed& lane = lane_passed[size_t{t} * num_basic_blocks + b];
  Passed& warp = warp_passed[size_t{w} * num_basic_blocks + b];
  if (lane.epoch != epochs[w]) lane = {epochs[w], 0};
  if (warp.epoch != epochs[w]) warp = {epochs[w], 0};
  ++counts->lane_passes[b];
  if (++lane.times > warp.times) {
    warp.times = lane.times;
    ++counts->warp_passes[b];
  }
  counts->lane_instructions += instructions;
  lanes[t].count_until(lanes[t].instructions);
  lanes[t].counted = 0;
  lanes[t].instructions = instructions;
  return lane.times;
}

void no_access() { loaded_global = false; }
void note_access(Kind kind, u64 a, unsigned n) {
  const unsigned t = thread();
  accesses[t / 32].push_back(
      {access_number, access_passing, a, static_cast<u8>(t % 32), static_cast<u8>(n), kind});
  loaded_global = kind == Kind::global_load;
  loaded_bytes = n;
}

u32 current_time() { return lanes[thread()].time; }
u32 ready_time(u32 issued, u32 position) {
  if (!loaded_global) return 0;
  Lane& lane = lanes[thread()];
  lane.count_until(position);
  lane.in_flight += loaded_bytes;
  return issued + 1;
}
void wait_for(u32 ready, u32 position) {
  Lane& lane = lanes[thread()];
  if (ready <= lane.time) return;
  lane.count_until(position);
  // Loads issued together with the awaited one have arrived as well.
  lane.time = ready;
  lane.in_flight = 0;
}

u32 issue_copy(u32 bytes) {
  Lane& lane = lanes[thread()];
  lane.count_until(copy_position);
  lane.copied += bytes;
  return bytes > 0 ? lane.time + 1 : 0;
}
void wait_for_copies(u32 bytes, u32 ready) {
  Lane& lane = lanes[thread()];
  lane.count_until(copy_position);
  lane.copied -= bytes;
  wait_for(ready, copy_position);
}

void next_epoch(unsigned warp) {
  if (!enabled) return;
  add_requests(warp);
  epochs[warp] = ++last_epoch;
}
void next_epoch_of_all() {
  for (unsigned w = 0; w < max_warps; ++w) next_epoch(w);
}

void begin_launch(const char* kernel, u32 basic_blocks, unsigned shared_bytes) {
  enabled = basic_blocks > 0;
  if (!enabled) return;
  counts = &all_counts[kernel];
  ++counts->launches;
  counts->shared_bytes = std::max<u64>(counts->shared_bytes, shared_bytes);
  counts->warp_passes.resize(basic_blocks);
  counts->lane_passes.resize(basic_blocks);
  num_basic_blocks = basic_blocks;
  const size_t threads = blockDim.x * blockDim.y * blockDim.z;
  lane_passed.assign(threads * num_basic_blocks, {});
  warp_passed.assign((threads + 31) / 32 * num_basic_blocks, {});
}

void begin_block() {
  if (!enabled) return;
  end_block();
  threads_of_block = blockDim.x * blockDim.y * blockDim.z;
  std::fill(lanes, lanes + max_threads, Lane{});
  ++counts->blocks;
  counts->warps += (threads_of_block + 31) / 32;
  counts->threads = threads_of_block;
  next_epoch_of_all();
}

void end_launch() {
  if (!enabled) return;
  end_block();
  counts->launch_sectors += launch_sectors.size();
  counts->launch_stored_sectors += launch_stored.size();
  launch_sectors.clear();
  launch_stored.clear();
  enabled = false;
}

const char* json() {
  static std::string text;
  std::ostringstream out;
  out << '{';
  for (const auto& [kernel, c] : all_counts) {
    out << (out.tellp() > 1 ? "," : "") << '"' << kernel << "\":";
    write(out, c);
  }
  out << '}';
  text = out.str();
  return text.c_str();
}
void clear() { all_counts.clear(); }

}  // namespace ptx::counters
