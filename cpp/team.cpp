#include "team.hpp"

#include <dlfcn.h>

namespace ordito {

void Team::everywhere(void (*work)(void*), void* context) const {
    // What GCC calls for a parallel region, which LLVM's and Intel's runtimes have, too (the ABI of libgomp, "Implementing
    // PARALLEL construct"). PyTorch makes its runtime's names known to the whole process.
    using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
    static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (threads_ > 1 && parallel) parallel(work, context, static_cast<unsigned>(threads_), 0);
    else work(context);
}

}  // namespace ordito
