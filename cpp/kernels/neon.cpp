#include "isa_neon.hpp"
// The instruction set comes first.
#include "table.hpp"

namespace ordito {

const Kernels& neon_kernels() {
    static const Kernels kernels = table_of("neon");
    return kernels;
}

}  // namespace ordito
