#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "product.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;
using Result = nb::ndarray<nb::ndim<2>, nb::device::cpu>;

// Whether its numbers are bfloat16, or fp32; anything else has no products.
template <class Array>
bool is_half(const Array& array) {
    const nb::dlpack::dtype type = array.dtype();
    if (type == nb::dtype<float>()) return false;
    if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16 && type.lanes == 1) return true;
    throw std::invalid_argument("products are of float32 and bfloat16");
}

// Lines along one of a matrix's axes.
Lines lines_of(const Matrix& matrix, int along) {
    const Lines lines{matrix.data(), is_half(matrix), matrix.stride(1 - along), matrix.stride(along)};
    if (lines.line != 1 && lines.depth != 1 && matrix.size()) throw std::invalid_argument("a matrix has to be contiguous along one axis");
    return lines;
}

// The products of a kind ("float32", "bfloat16") of an instruction set; null where it has none.
const Products* products_of(const std::optional<std::string>& kernels, const std::string& kind) {
    if (kind != "float32" && kind != "bfloat16") throw std::invalid_argument("products are of float32 and bfloat16, not of " + kind);
    return kernels_named(kernels).products[kind == "bfloat16"];
}

}  // namespace

void bind_products(nb::module_& module) {
    module.def("has_products", [](const std::string& kind) { return products_of({}, kind) != nullptr; }, "kind"_a);
    module.def("multiply", [](const std::string& kind, Matrix a, Matrix b, Result c, int threads, std::optional<std::string> kernels) {
        const Products* by = products_of(kernels, kind);
        if (!by) throw std::invalid_argument("no products of " + kind + " by these kernels");
        const auto m = static_cast<std::int64_t>(a.shape(0)), k = static_cast<std::int64_t>(a.shape(1)), n = static_cast<std::int64_t>(b.shape(1));
        if (static_cast<std::int64_t>(b.shape(0)) != k || static_cast<std::int64_t>(c.shape(0)) != m || static_cast<std::int64_t>(c.shape(1)) != n)
            throw std::invalid_argument("the shapes of a product do not fit");
        if (n > 1 && c.stride(1) != 1) throw std::invalid_argument("the rows of a product have to be contiguous");
        const Lines rows = lines_of(a, 1), columns = lines_of(b, 0);
        const Target to{c.data(), is_half(c), c.stride(0)};
        if (kind == "float32" && (rows.half || columns.half || to.half)) throw std::invalid_argument("products of float32 are of and to float32");
        nb::gil_scoped_release released;
        multiply(*by, m, n, k, rows, columns, to, Team(threads));
    }, "kind"_a, "a"_a, "b"_a, "c"_a, "threads"_a, "kernels"_a = nb::none());
}

}  // namespace ordito
