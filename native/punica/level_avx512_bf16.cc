// AVX-512 with BF16 instructions (Cooper Lake, Sapphire Rapids, Zen 4 and later).
// Standard headers come before the pragma: their inline functions must not be compiled for this level, or the linker may
// keep that copy for the whole library, and a CPU without these instructions would run it.
#include "kernels.h"
#include <cmath>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16"))), \
                             apply_to = function)
#else
// GCC 12 takes the deliberate don't-care operands of its own AVX-512 headers for uninitialised variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16")
#endif
namespace tritonode::punica {
namespace {
#define TRITONODE_PUNICA_BF16 1
#include "vec_avx512.inl"

#include "kernels.inl"
}  // namespace
const Kernels* avx512_bf16_kernels() { return &kTable; }
}  // namespace tritonode::punica
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace tritonode::punica {
const Kernels* avx512_bf16_kernels() { return nullptr; }
}  // namespace tritonode::punica
#endif
