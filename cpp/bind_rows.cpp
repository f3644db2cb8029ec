#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <initializer_list>

#include "bindings.hpp"
#include "training_rows.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

using Table = nb::ndarray<const float, nb::ndim<3>, nb::device::cpu>;
using Name = std::optional<std::string>;

void expect(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(std::string("the shapes of rows do not fit: ") + what);
}

// Expects rows of the shape of x, each contiguous.
template <class Array>
void expect_like(const Array& rows, const Matrix& x, const char* what) {
    expect(rows.shape(0) == x.shape(0) && rows.shape(1) == x.shape(1) && (rows.shape(1) < 2 || rows.stride(1) == 1), what);
}

Lines rows_of(const Matrix& x) { return {x.data(), is_bf16(x), x.stride(0), 1}; }
Target rows_of(const Result& y) { return {y.data(), is_bf16(y), y.stride(0)}; }
std::int64_t size(std::size_t n) { return static_cast<std::int64_t>(n); }

}  // namespace

void bind_rows(nb::module_& module) {
    module.def("norm_rows", [](Matrix x, float eps, Floats weight, Result y, int threads, Name name) {
        expect_like(x, x, "x"), expect_like(y, x, "y"), expect(weight.size() == x.shape(1), "weight");
        const Kernels& kernels = kernels_named(name);
        const Lines from = rows_of(x);
        const Target to = rows_of(y);
        nb::gil_scoped_release released;
        norm_rows(kernels, from, size(x.shape(0)), size(x.shape(1)), eps, weight.data(), to, Team(threads));
    }, "x"_a, "eps"_a, "weight"_a, "y"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("norm_rows_gradient", [](Matrix x, float eps, Floats weight, Matrix grad, Result grad_x, std::optional<Numbers> grad_weight,
                                        int threads, Name name) {
        expect_like(x, x, "x"), expect_like(grad, x, "grad"), expect_like(grad_x, x, "grad_x"), expect(weight.size() == x.shape(1), "weight");
        expect(!grad_weight || grad_weight->size() == weight.size(), "grad_weight");
        const Kernels& kernels = kernels_named(name);
        const Lines from = rows_of(x), change = rows_of(grad);
        const Target to = rows_of(grad_x);
        float* sums = grad_weight ? grad_weight->data() : nullptr;
        nb::gil_scoped_release released;
        norm_rows_gradient(kernels, from, size(x.shape(0)), size(x.shape(1)), eps, weight.data(), change, to, sums, Team(threads));
    }, "x"_a, "eps"_a, "weight"_a, "grad"_a, "grad_x"_a, "grad_weight"_a.none(), "threads"_a, "kernels"_a = nb::none());
    module.def("gate_rows", [](Matrix gate, Matrix up, Result y, int threads, Name name) {
        expect_like(gate, gate, "gate"), expect_like(up, gate, "up"), expect_like(y, gate, "y");
        const Kernels& kernels = kernels_named(name);
        const Lines left = rows_of(gate), right = rows_of(up);
        const Target to = rows_of(y);
        nb::gil_scoped_release released;
        gate_rows(kernels, left, right, size(gate.shape(0)), size(gate.shape(1)), to, Team(threads));
    }, "gate"_a, "up"_a, "y"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("gate_rows_gradient", [](Matrix gate, Matrix up, Matrix grad, Result grad_gate, Result grad_up, int threads, Name name) {
        expect_like(gate, gate, "gate"), expect_like(up, gate, "up"), expect_like(grad, gate, "grad");
        expect_like(grad_gate, gate, "grad_gate"), expect_like(grad_up, gate, "grad_up");
        const Kernels& kernels = kernels_named(name);
        const Lines left = rows_of(gate), right = rows_of(up), change = rows_of(grad);
        const Target to_gate = rows_of(grad_gate), to_up = rows_of(grad_up);
        nb::gil_scoped_release released;
        gate_rows_gradient(kernels, left, right, size(gate.shape(0)), size(gate.shape(1)), change, to_gate, to_up, Team(threads));
    }, "gate"_a, "up"_a, "grad"_a, "grad_gate"_a, "grad_up"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("rotate_heads", [](Four x, Table cos, Table sin, bool interleaved, bool back, FourResult y, int threads, Name name) {
        const std::int64_t batch = size(x.shape(0)), heads = size(x.shape(1)), tokens = size(x.shape(2)), width = size(x.shape(3));
        const std::int64_t pairs = size(cos.shape(2));
        for (int axis = 0; axis < 4; axis++) expect(x.shape(axis) == y.shape(axis), "y");
        for (const Table& table : {cos, sin})
            expect(size(table.shape(0)) == batch && size(table.shape(1)) == tokens && size(table.shape(2)) == pairs && table.stride(2) == 1 &&
                   (tokens < 2 || table.stride(1) == pairs), "angles");
        expect(2 * pairs <= width && (width < 2 || (x.stride(3) == 1 && y.stride(3) == 1)), "channels");
        const Heads<const void> from{x.data(), is_bf16(x), x.stride(0), x.stride(1), x.stride(2)};
        const Heads<void> to{y.data(), is_bf16(y), y.stride(0), y.stride(1), y.stride(2)};
        const Angles angles{cos.data(), sin.data(), cos.stride(0), sin.stride(0), pairs, interleaved, back};
        const Kernels& kernels = kernels_named(name);
        nb::gil_scoped_release released;
        rotate_heads(kernels, from, batch, heads, tokens, width, angles, to, Team(threads));
    }, "x"_a, "cos"_a, "sin"_a, "interleaved"_a, "back"_a, "y"_a, "threads"_a, "kernels"_a = nb::none());
}

}  // namespace ordito
