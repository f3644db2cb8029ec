// Which instruction sets this machine has, asked when the program runs.
#include "kernels.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace ordito {

#if defined(ORDITO_X86)
const Kernels& avx512vnni_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx2_kernels();
#elif defined(ORDITO_ARM)
const Kernels& neon_kernels();
#endif

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(ORDITO_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
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
