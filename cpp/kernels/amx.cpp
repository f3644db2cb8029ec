#include "isa_avx512.hpp"
// `Isa` has to be declared before what follows.
#include "bf16_gemm.hpp"
#include "table.hpp"
#include "tiles.hpp"

namespace ordito {

const Kernels& amx_kernels() {
    static const Kernels kernels = [] {
        Kernels made = table_of("amx");
        fill_tiles(made, std::make_integer_sequence<int, std::size(kLayouts)>());
        made.gemm[1] = &kBf16Gemm;
        return made;
    }();
    return kernels;
}

}  // namespace ordito
