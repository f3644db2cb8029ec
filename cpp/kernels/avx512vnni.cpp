#include "isa_avx512.hpp"
// `Isa` has to be declared before what follows.
#include "table.hpp"

namespace ordito {

const Kernels& avx512vnni_kernels() {
    static const Kernels kernels = table_of("avx512vnni");
    return kernels;
}

}  // namespace ordito
