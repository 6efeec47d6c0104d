#include "shared_memory.h"

#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda_shim.h"

namespace cuda_shim {
namespace {

constexpr unsigned char filling = 0xff;  // float and double NaN, and no sensible index
constexpr size_t margin = 256;           // filled bytes on either side of the dynamic part

thread_local char anchor;  // a place in this module's thread-local storage

std::vector<unsigned char> storage;  // the dynamic part with its margins
unsigned char* dynamic = nullptr;
size_t dynamic_size = 0;
unsigned char* fixed =
    nullptr;  // the thread-local storage: the static shared memory of all kernels
size_t fixed_size = 0;

[[maybe_unused]] int find_fixed(dl_phdr_info* info, size_t, void*) {
  auto* const begin = static_cast<unsigned char*>(info->dlpi_tls_data);
  const auto* const place = reinterpret_cast<unsigned char*>(&anchor);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = info->dlpi_phdr[i];
    if (header.p_type != PT_TLS || begin == nullptr) continue;
    if (place < begin || place >= begin + header.p_memsz) continue;
    fixed = begin;
    fixed_size = header.p_memsz;
    return 1;
  }
  return 0;
}

}  // namespace

namespace shared_memory {

void allocate(size_t dynamic_bytes) {
  dynamic_size = dynamic_bytes;
#if defined(__SANITIZE_ADDRESS__)
  // An allocation of the exact size, which the sanitizer guards better than margins.
  free(dynamic);
  dynamic = static_cast<unsigned char*>(malloc(dynamic_bytes));
#else
  storage.assign(dynamic_bytes + 2 * margin + 32, filling);
  // Aligned to 16 bytes, intentionally to no more.
  const auto least = reinterpret_cast<uintptr_t>(storage.data() + margin);
  dynamic = reinterpret_cast<unsigned char*>((least + 15) / 32 * 32 + 16);
  if (dl_iterate_phdr(find_fixed, nullptr) == 0) abort();
#endif
}

void poison() {
  if (!storage.empty()) memset(storage.data(), filling, storage.size());
  if (dynamic_size > 0) memset(dynamic, filling, dynamic_size);
  if (fixed_size > 0) memset(fixed, filling, fixed_size);
}

bool overrun() {
  const auto changed = [](unsigned char byte) { return byte != filling; };
  return !storage.empty() &&
         (std::any_of(storage.data(), dynamic, changed) ||
          std::any_of(dynamic + dynamic_size, storage.data() + storage.size(), changed));
}

}  // namespace shared_memory

void* dynamic_shared() { return dynamic; }

}  // namespace cuda_shim
