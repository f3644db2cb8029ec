#include "isa_avx2.hpp"
// The instruction set comes first.
#include "table.hpp"

namespace ordito {

const Kernels& avx2_kernels() {
    static const Kernels kernels = table_of("avx2");
    return kernels;
}

}  // namespace ordito
