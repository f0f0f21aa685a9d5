// Chooses the instruction set: the best that this CPU has, unless TRITONODE_PUNICA_LEVEL names another.
//
// Levels are compiled by target pragmas inside their own files, not by flags of the build: gyp has no flags per
// source, and one shared library then holds all of them. Highway would do the same, but it is a dependency that
// neither npm nor the PyPI wheels provide; it would replace the five small `Vec` structs.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace tritonode::punica {
namespace {

constexpr const char* kNames[TRITONODE_PUNICA_LEVELS] = {"portable", "avx2", "avx512", "avx512_bf16", "neon"};

bool cpu_has(int level) {
  switch (level) {
    case TRITONODE_PUNICA_PORTABLE: return true;
#if defined(__x86_64__)
    // The compiler's own query also asks the operating system (XGETBV) whether the registers are saved.
    case TRITONODE_PUNICA_AVX512_BF16:
      return __builtin_cpu_supports("avx512bf16") && cpu_has(TRITONODE_PUNICA_AVX512);
    case TRITONODE_PUNICA_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             cpu_has(TRITONODE_PUNICA_AVX2);
    case TRITONODE_PUNICA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
#if defined(__aarch64__)
    case TRITONODE_PUNICA_NEON: return true;
#endif
    default: return false;
  }
}

const Kernels* table(int level) {
  if (!cpu_has(level)) return nullptr;
  switch (level) {
    case TRITONODE_PUNICA_AVX2: return avx2_kernels();
    case TRITONODE_PUNICA_AVX512: return avx512_kernels();
    case TRITONODE_PUNICA_AVX512_BF16: return avx512_bf16_kernels();
    case TRITONODE_PUNICA_NEON: return neon_kernels();
    default: return portable_kernels();
  }
}

constexpr int kRefused = -1;

// The level that the environment asks for; kRefused if no level of this build has that name.
int choose() {
  const char* wanted = std::getenv("TRITONODE_PUNICA_LEVEL");
  int best = TRITONODE_PUNICA_PORTABLE;
  for (int level = 0; level < TRITONODE_PUNICA_LEVELS; ++level) {
    if (!cpu_has(level)) continue;
    if (wanted && std::strcmp(wanted, kNames[level]) == 0) return level;
    best = level;
  }
  return wanted && *wanted ? kRefused : best;
}

std::atomic<int>& level_in_use() {
  static std::atomic<int> level{choose()};
  return level;
}

std::atomic<const Kernels*>& kernels_in_use() {
  static std::atomic<const Kernels*> kernels{table(std::max<int>(level_in_use().load(), TRITONODE_PUNICA_PORTABLE))};
  return kernels;
}

}  // namespace

const Kernels& active_kernels() { return *kernels_in_use().load(std::memory_order_relaxed); }

}  // namespace tritonode::punica

using namespace tritonode::punica;

extern "C" {

int32_t tritonode_punica_abi_version(void) { return TRITONODE_PUNICA_ABI; }

int32_t tritonode_punica_supports(int32_t level) {
  return level >= 0 && level < TRITONODE_PUNICA_LEVELS && cpu_has(level) ? 1 : 0;
}

int32_t tritonode_punica_get_level(void) { return level_in_use().load(); }

int32_t tritonode_punica_set_level(int32_t level) {
  if (!tritonode_punica_supports(level)) return TRITONODE_PUNICA_UNSUPPORTED;
  level_in_use().store(level);
  kernels_in_use().store(table(level));
  return TRITONODE_PUNICA_OK;
}

const char* tritonode_punica_level_name(int32_t level) {
  return level >= 0 && level < TRITONODE_PUNICA_LEVELS ? kNames[level] : nullptr;
}

}  // extern "C"
