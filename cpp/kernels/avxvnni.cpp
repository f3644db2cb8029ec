#include "isa_avx2.hpp"
// The instruction set comes first.
#include "table.hpp"

namespace ordito {

const Kernels& avxvnni_kernels() {
    static const Kernels kernels = table_of("avxvnni");
    return kernels;
}

}  // namespace ordito
