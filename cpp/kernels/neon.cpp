#include "isa_neon.hpp"
// `Isa` has to be declared before what follows.
#include "table.hpp"

namespace ordito {

const Kernels& neon_kernels() {
    static const Kernels kernels = table_of("neon");
    return kernels;
}

}  // namespace ordito
