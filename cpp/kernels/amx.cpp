#include "isa_avx512.hpp"
// The instruction set comes first.
#include "half_products.hpp"
#include "table.hpp"
#include "tiles.hpp"

namespace ordito {

const Kernels& amx_kernels() {
    static const Kernels kernels = [] {
        Kernels made = table_of("amx");
        fill_tiles(made, std::make_integer_sequence<int, std::size(kLayouts)>());
        made.products[1] = &kHalfProducts;
        return made;
    }();
    return kernels;
}

}  // namespace ordito
