// A pooling problem decoded from bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "core/penalties.h"

namespace native {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Reads numbers from bytes; zeros past the end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  int below(int bound) { return byte() % bound; }
  uint64_t word() {
    uint64_t x = 0;
    for (int i = 0; i < 8; ++i) x = x << 8 | byte();
    return x;
  }
  bool empty() const { return left_ == 0; }

 private:
  const uint8_t* data_;
  size_t left_;
};

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(word() >> 11) * 0x1p-53; }
  int below(int bound) { return static_cast<int>(word() % static_cast<uint64_t>(bound)); }
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

// Sizes on both sides of the limits between kernels, with more small ones.
constexpr int sizes[] = {1,  2,  3,  4,  5,   7,   8,   12,  16,  17,  31,   33,   48,
                         63, 64, 65, 96, 127, 129, 200, 256, 257, 333, 511,  513,  700,
                         1,  2,  3,  6,  10,  20,  40,  50,  70,  80,  1024, 1025, 1500};
constexpr int large_sizes[] = {2049, 4096, 4097, 8191, 8193, 12000, 16385, 20000};

constexpr int layouts = 5;
constexpr int segments = 4;  // the layout whose sets are segments of one dim

enum class Weights { none, mask, some, wide };

struct Case {
  bool is_double;
  int penalty;
  bool global;
  int num_sets;
  int num_points;
  int layout;
  Weights weights;
  int points;  // kind of data, see draw_points()
  int64_t max_iter;
  double tolerance;
  bool alpha_each;
  double alpha;
  uint64_t seed;
};

inline Case decode(Bytes& bytes) {
  Case c{};
  const uint8_t flags = bytes.byte();
  c.is_double = (flags & 1) != 0;
  c.global = (flags & 2) == 0;
  c.alpha_each = (flags & 4) != 0;
  c.penalty = bytes.below(ddn::Penalties::size);
  const int size = bytes.byte();
  c.num_points = size >= 253 ? large_sizes[bytes.below(std::size(large_sizes))]
                             : sizes[size % std::size(sizes)];
  c.num_sets = c.num_points > 2000 ? 1 : 1 + bytes.below(c.num_points > 300 ? 2 : 5);
  c.layout = bytes.below(layouts);
  c.weights = static_cast<Weights>(bytes.below(4));
  c.points = bytes.below(8);
  const int stop = bytes.byte();
  c.max_iter = stop < 40 ? stop : -1;
  c.tolerance = stop >= 240 ? std::ldexp(1.0, -(stop - 240) * 3) : -1;
  // Mostly near one, sometimes anywhere in the range of alpha or slightly outside.
  const int scale = bytes.byte();
  const int most = c.is_double ? 99 : 49;
  const int exponent = scale < 128 ? scale % 8 - 4 : (scale - 192) * most / 64;
  c.alpha = std::ldexp(1.0 + bytes.byte() / 256.0, exponent);
  c.seed = bytes.word();
  return c;
}

template <class T>
T from_bits(uint64_t word) {
  T x;
  memcpy(&x, &word, sizeof x);
  return x;
}

// In units of alpha, except for points of any bits.
template <class T>
std::vector<T> draw_points(const Case& c, Bytes& bytes, Random& random) {
  const size_t count = static_cast<size_t>(c.num_sets) * static_cast<size_t>(c.num_points);
  std::vector<T> x(count);
  const double clusters = 1 + random.below(4);
  const double apart = random.below(3) == 0 ? random.below(5) : 20 * random.uniform();
  const double spread = std::ldexp(1.0, random.below(20) - 14);
  const double offset = random.below(4) == 0 ? 1e4 * random.normal() : 0;
  const T special[] = {static_cast<T>(infinity),
                       -static_cast<T>(infinity),
                       std::numeric_limits<T>::quiet_NaN(),
                       std::numeric_limits<T>::max(),
                       std::numeric_limits<T>::lowest(),
                       std::numeric_limits<T>::denorm_min(),
                       -T(0),
                       std::numeric_limits<T>::min()};
  for (T& point : x) {
    double v = 0;
    switch (c.points) {
      case 0:  // any bits
        point = from_bits<T>(bytes.empty() ? random.word() : bytes.word());
        continue;
      case 1:  // distances of exactly alpha and 2 alpha
        v = 0.5 * random.below(17);
        break;
      case 2:  // all the same
        v = offset + spread;
        break;
      case 3:  // over many orders of magnitude
        v = std::ldexp(random.normal(), random.below(60) - 30);
        break;
      case 4:  // some special numbers
        if (random.below(4) == 0) {
          point = special[random.below(std::size(special))];
          continue;
        }
        v = random.normal();
        break;
      case 5:  // a lattice with a spacing of its own, flat to the last bit
        v = offset + random.below(256) * spread;
        break;
      case 6:  // one outlier in ten
        v = random.below(10) == 0 ? 1e6 * random.normal() : random.normal();
        break;
      default:
        v = offset + apart * std::floor(clusters * random.uniform()) + spread * random.normal();
    }
    point = static_cast<T>(std::clamp<double>(v * c.alpha, std::numeric_limits<T>::lowest(),
                                              std::numeric_limits<T>::max()));
  }
  return x;
}

template <class T>
std::vector<T> draw_weights(const Case& c, Random& random) {
  if (c.weights == Weights::none) return {};
  std::vector<T> w(static_cast<size_t>(c.num_sets) * static_cast<size_t>(c.num_points));
  const int zeros = random.below(3);  // none, some, or most are zero
  const int bad = random.below(16) == 0 ? random.below(static_cast<int>(w.size())) : -1;
  for (T& weight : w) {
    weight = c.weights == Weights::mask   ? T(1)
             : c.weights == Weights::some ? static_cast<T>(0.1 * (1 + random.below(20)))
                                          : static_cast<T>(std::ldexp(1.0, random.below(80) - 40));
    if (random.below(8) < zeros * 3) weight = 0;
  }
  if (bad >= 0) {
    const double none[] = {-1, infinity, std::nan(""), -0.0};
    w[static_cast<size_t>(bad)] = static_cast<T>(none[random.below(4)]);
  }
  return w;
}

}  // namespace native
