// Which instruction sets this processor has, asked at run time.
#include "kernels.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(ORDITO_X86) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ordito {

#if defined(ORDITO_X86)
#if defined(__linux__)
const Kernels& amx_kernels();
#endif
const Kernels& avx512vnni_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx2_kernels();
#elif defined(ORDITO_ARM)
const Kernels& neon_kernels();
#endif

#if defined(ORDITO_X86) && defined(__linux__)
// AMX for bfloat16 and int8 (bits 22, 24 and 25 of leaf 7), with AVX-512's bfloat16 (bit 5 of leaf 7.1). On Linux a process has
// to request AMX's tile registers before it uses them.
static bool may_use_tiles() {
    unsigned a, b, c, d;
    constexpr unsigned kTiles = 1u << 22 | 1u << 24 | 1u << 25, kBfloat = 1u << 5;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) != kTiles) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kBfloat)) return false;
    constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(ORDITO_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#if defined(__linux__)
    if (avx2 && avx512 && may_use_tiles()) found.push_back(&amx_kernels());
#endif
    if (avx2 && avx512) found.push_back(&avx512vnni_kernels());
    if (avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(&avxvnni_kernels());
    if (avx2) found.push_back(&avx2_kernels());
#elif defined(ORDITO_ARM)
#if defined(__linux__)
    const bool dot = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    const bool dot = true;  // every Apple processor of this architecture
#endif
    if (dot) found.push_back(&neon_kernels());
#endif
    found.push_back(&reference());
    return found;
}

}  // namespace ordito
