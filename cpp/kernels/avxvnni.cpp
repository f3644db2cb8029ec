#include "isa_avx2.hpp"
// `Isa` has to be declared before what follows.
#include "table.hpp"

namespace ordito {

const Kernels& avxvnni_kernels() {
    static const Kernels kernels = table_of("avxvnni");
    return kernels;
}

}  // namespace ordito
