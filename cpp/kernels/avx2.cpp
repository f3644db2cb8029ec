#include "isa_avx2.hpp"
// `Isa` has to be declared before what follows.
#include "table.hpp"

namespace ordito {

const Kernels& avx2_kernels() {
    static const Kernels kernels = table_of("avx2");
    return kernels;
}

}  // namespace ordito
