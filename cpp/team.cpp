#include "team.hpp"

#include <dlfcn.h>

namespace ordito {

namespace {

// The entry point that GCC calls for a parallel region, which LLVM's and Intel's runtimes have, too (the ABI of libgomp,
// "Implementing PARALLEL construct"). PyTorch makes its runtime's symbols visible to the whole process.
using Parallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// Looked up again until it is found: PyTorch may be imported later.
Parallel parallel() {
    static std::atomic<Parallel> found{nullptr};
    if (!found) found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
}

}  // namespace

bool Team::available() { return parallel() != nullptr; }

void Team::run_on_all(void (*work)(void*), void* context) const {
    if (threads_ > 1 && available()) parallel()(work, context, static_cast<unsigned>(threads_), 0);
    else work(context);
}

}  // namespace ordito
