#include "team.hpp"

#include <dlfcn.h>

namespace ordito {

namespace {

// What GCC calls for a parallel region, which LLVM's and Intel's runtimes have, too (the ABI of libgomp, "Implementing PARALLEL
// construct"). PyTorch makes its runtime's names known to the whole process.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// Looked for again until it is there: PyTorch may be imported later.
Parallel parallel() {
    static std::atomic<Parallel> found{nullptr};
    if (!found) found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

}  // namespace

bool Team::there() { return parallel() != nullptr; }

void Team::everywhere(void (*work)(void*), void* context) const {
    if (threads_ > 1 && there()) parallel()(work, context, static_cast<unsigned>(threads_), 0);
    else work(context);
}

}  // namespace ordito
