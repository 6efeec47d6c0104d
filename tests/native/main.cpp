// Runs drawn cases through the kernels of both devices; built with sanitizers.
//
//   pooling_cases [--cases N] [--seed S] [FILE...]
//
// With files, their bytes are the cases. Needs neither PyTorch nor a GPU.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "cpu/robust_pool_cpu.h"
#include "pooling_case.h"

int main(int count, char** arguments) {
  long cases = 1000;
  unsigned long seed = 0;
  native::Tally tally;
  const auto start = std::chrono::steady_clock::now();
  bool files = false;
  for (int i = 1; i < count; ++i) {
    const bool more = i + 1 < count;
    if (std::strcmp(arguments[i], "--cases") == 0 && more) {
      cases = std::atol(arguments[++i]);
    } else if (std::strcmp(arguments[i], "--seed") == 0 && more) {
      seed = std::strtoul(arguments[++i], nullptr, 10);
    } else if (arguments[i][0] == '-') {
      std::fprintf(stderr, "usage: %s [--cases N] [--seed S] [FILE...]\n", arguments[0]);
      return 2;
    } else {
      std::ifstream file(arguments[i], std::ios::binary);
      if (!file) {
        std::fprintf(stderr, "cannot read %s\n", arguments[i]);
        return 2;
      }
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      native::run_case(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), tally);
      files = true;
    }
  }
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(64);
  for (long i = 0; !files && i < cases; ++i) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    native::run_case(bytes.data(), bytes.size(), tally);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "%ld cases, %ld sets, %ld points; %ld finite answers, %ld pairs of devices compared, "
      "%ld bounds held against objectives; cpu %s, seed %lu, %.1f s\n",
      tally.cases, tally.sets, tally.points, tally.finite, tally.compared, tally.certified,
      ddn::cpu::instruction_set(), seed, seconds.count());
  return 0;
}
