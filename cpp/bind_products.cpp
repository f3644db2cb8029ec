#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <type_traits>

#include "attention_training.hpp"
#include "bindings.hpp"
#include "product.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

// A matrix as an operand whose depth is the axis `along`.
Lines lines_of(const Matrix& matrix, int along) {
    const Lines lines{matrix.data(), is_bf16(matrix), matrix.stride(1 - along), matrix.stride(along)};
    if (lines.line_stride != 1 && lines.depth_stride != 1 && matrix.size()) throw std::invalid_argument("a matrix has to be contiguous along one axis");
    return lines;
}

using Three = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using MaskArray = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu>;

void expect(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(std::string("the shapes of attention do not fit: ") + what);
}

template <class Array>
auto heads_of(const Array& x, std::int64_t batch, std::int64_t heads, std::int64_t tokens, std::int64_t width, const char* what) {
    using Data = std::conditional_t<std::is_same_v<Array, Four>, const void, void>;
    expect(static_cast<std::int64_t>(x.shape(0)) == batch && static_cast<std::int64_t>(x.shape(1)) == heads &&
           static_cast<std::int64_t>(x.shape(2)) == tokens && static_cast<std::int64_t>(x.shape(3)) == width, what);
    if (width > 1 && x.stride(3) != 1) throw std::invalid_argument("the numbers of a head have to be contiguous");
    return Heads<Data>{x.data(), is_bf16(x), x.stride(0), x.stride(1), x.stride(2)};
}

AttentionSizes shape_of(const Four& q, const Four& k, const Four& v) {
    const auto size = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    const AttentionSizes shape{size(q.shape(0)), size(q.shape(1)), size(k.shape(1)), size(q.shape(2)), size(k.shape(2)), size(q.shape(3)), size(v.shape(3))};
    expect(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "heads");
    return shape;
}

AttentionInputs inputs_of(const AttentionSizes& s, const Four& q, const Four& k, const Four& v, const std::optional<MaskArray>& mask,
                          const std::optional<Floats>& sinks, float scale, float cap) {
    AttentionInputs in{heads_of(q, s.batch, s.heads, s.queries, s.width, "q"), heads_of(k, s.batch, s.kv_heads, s.keys, s.width, "k"),
                       heads_of(v, s.batch, s.kv_heads, s.keys, s.value_width, "v"), nullptr, 0, 0, sinks ? sinks->data() : nullptr, scale, cap};
    expect(!sinks || static_cast<std::int64_t>(sinks->size()) == s.heads, "sinks");
    if (mask) {
        expect(static_cast<std::int64_t>(mask->shape(0)) == s.batch && static_cast<std::int64_t>(mask->shape(1)) == s.queries &&
               static_cast<std::int64_t>(mask->shape(2)) == s.keys && (s.keys < 2 || mask->stride(2) == 1), "mask");
        in.mask = mask->data(), in.mask_batch = mask->stride(0), in.mask_query = mask->stride(1);
    }
    return in;
}

void expect_rows(const Three& x, const AttentionSizes& s) {
    expect(static_cast<std::int64_t>(x.shape(0)) == s.batch && static_cast<std::int64_t>(x.shape(1)) == s.heads &&
           static_cast<std::int64_t>(x.shape(2)) == s.queries, "numbers of rows");
}

// The micro-kernel of a kind ("float32", "bfloat16") in an instruction set; null if it has none.
const Gemm* gemm_of(const std::optional<std::string>& kernels, const std::string& kind) {
    if (kind != "float32" && kind != "bfloat16") throw std::invalid_argument("products are of float32 and bfloat16, not of " + kind);
    return kernels_named(kernels).gemm[kind == "bfloat16"];
}

const Gemm* required_gemm(const std::optional<std::string>& kernels, const std::string& kind) {
    const Gemm* gemm = gemm_of(kernels, kind);
    if (!gemm) throw std::invalid_argument("no products of " + kind + " in these kernels");
    return gemm;
}

// Products of float32 take and give float32 only.
void expect_plain(const std::string& kind, bool some_bf16) {
    if (kind == "float32" && some_bf16) throw std::invalid_argument("products of float32 are of and to float32");
}

using Targets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The rows of logits. Throws std::invalid_argument if there is not one target for each row, or one is not a column.
Lines rows_of(const Matrix& logits, const Targets& targets) {
    if (logits.size() && logits.stride(1) != 1) throw std::invalid_argument("the logits of a row have to be contiguous");
    if (targets.size() != logits.shape(0)) throw std::invalid_argument("there has to be a target for each row of logits");
    for (std::size_t i = 0; i < targets.size(); i++)
        if (targets.data()[i] < 0 || targets.data()[i] >= static_cast<std::int64_t>(logits.shape(1)))
            throw std::invalid_argument("got the target " + std::to_string(targets.data()[i]) + " of " + std::to_string(logits.shape(1)) + " logits");
    return {logits.data(), is_bf16(logits), logits.stride(0), 1};
}

float number_at(const Lines& rows, std::int64_t row, std::int64_t column) {
    const void* at = offset_by(rows, row, column).data;
    return rows.bf16 ? bfloat_to_float(*static_cast<const std::uint16_t*>(at)) : *static_cast<const float*>(at);
}

}  // namespace

void bind_products(nb::module_& module) {
    module.def("has_team", &Team::available);
    module.def("has_products", [](const std::string& kind) { return gemm_of({}, kind) != nullptr; }, "kind"_a);
    module.def("multiply", [](const std::string& kind, Matrix a, Matrix b, Result c, int threads, std::optional<std::string> kernels) {
        const Gemm* gemm = required_gemm(kernels, kind);
        const auto m = static_cast<std::int64_t>(a.shape(0)), k = static_cast<std::int64_t>(a.shape(1)), n = static_cast<std::int64_t>(b.shape(1));
        if (static_cast<std::int64_t>(b.shape(0)) != k || static_cast<std::int64_t>(c.shape(0)) != m || static_cast<std::int64_t>(c.shape(1)) != n)
            throw std::invalid_argument("the shapes of a product do not fit");
        if (n > 1 && c.stride(1) != 1) throw std::invalid_argument("the rows of a product have to be contiguous");
        const Lines rows = lines_of(a, 1), columns = lines_of(b, 0);
        const Target to{c.data(), is_bf16(c), c.stride(0)};
        expect_plain(kind, rows.bf16 || columns.bf16 || to.bf16);
        nb::gil_scoped_release released;
        multiply(*gemm, m, n, k, rows, columns, to, Team(threads));
    }, "kind"_a, "a"_a, "b"_a, "c"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("cross_entropy", [](Matrix logits, Targets targets, Numbers losses, Numbers logs, int threads, std::optional<std::string> name) {
        const Lines rows = rows_of(logits, targets);
        const auto n = static_cast<std::int64_t>(targets.size()), columns = static_cast<std::int64_t>(logits.shape(1));
        if (losses.size() != targets.size() || logs.size() != targets.size()) throw std::invalid_argument("expected one loss and one logarithm for each row of logits");
        const Kernels& kernels = kernels_named(name);
        nb::gil_scoped_release released;
        Team(threads).run(n, [&](std::int64_t i) {
            logs.data()[i] = kernels.logsumexp(offset_by(rows, i, 0).data, rows.bf16, columns);
            losses.data()[i] = logs.data()[i] - number_at(rows, i, targets.data()[i]);
        });
    }, "logits"_a, "targets"_a, "losses"_a, "logs"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("cross_entropy_gradient", [](Matrix logits, Targets targets, Numbers logs, Numbers weights, Result grad, int threads,
                                            std::optional<std::string> name) {
        const Lines rows = rows_of(logits, targets);
        const auto n = static_cast<std::int64_t>(targets.size()), columns = static_cast<std::int64_t>(logits.shape(1));
        if (grad.shape(0) != logits.shape(0) || grad.shape(1) != logits.shape(1) || is_bf16(grad) != rows.bf16 || (grad.size() && grad.stride(1) != 1) ||
            logs.size() != targets.size() || weights.size() != targets.size())
            throw std::invalid_argument("the gradient has to be like the logits, with a logarithm and a weight for each row");
        const Kernels& kernels = kernels_named(name);
        const Target to{grad.data(), rows.bf16, grad.stride(0)};
        nb::gil_scoped_release released;
        Team(threads).run(n, [&](std::int64_t i) {
            const float log = logs.data()[i], weight = weights.data()[i];
            const std::int64_t target = targets.data()[i];
            kernels.probabilities(offset_by(rows, i, 0).data, rows.bf16, columns, log, weight, offset_by(to, i, 0).data);
            const float rest = weight * std::expm1(number_at(rows, i, target) - log);
            void* at = offset_by(to, i, target).data;
            if (rows.bf16) *static_cast<std::uint16_t*>(at) = float_to_bfloat(rest);
            else *static_cast<float*>(at) = rest;
        });
    }, "logits"_a, "targets"_a, "logs"_a, "weights"_a, "grad"_a, "threads"_a, "kernels"_a = nb::none());
    module.def("attend", [](const std::string& kind, Four q, Four k, Four v, std::optional<MaskArray> mask, std::optional<Floats> sinks, float scale,
                            float cap, FourResult out, Three logs, int threads, std::optional<std::string> kernels) {
        const Gemm* gemm = required_gemm(kernels, kind);
        const AttentionSizes shape = shape_of(q, k, v);
        const AttentionInputs in = inputs_of(shape, q, k, v, mask, sinks, scale, cap);
        const Heads<void> to = heads_of(out, shape.batch, shape.heads, shape.queries, shape.value_width, "out");
        expect_plain(kind, in.q.bf16 || in.k.bf16 || in.v.bf16 || to.bf16);
        expect_rows(logs, shape);
        nb::gil_scoped_release released;
        attend(kernels_named(kernels), *gemm, shape, in, to, logs.data(), Team(threads));
    }, "kind"_a, "q"_a, "k"_a, "v"_a, "mask"_a.none(), "sinks"_a.none(), "scale"_a, "cap"_a, "out"_a, "logs"_a, "threads"_a,
       "kernels"_a = nb::none());
    module.def("attend_gradient", [](const std::string& kind, Four q, Four k, Four v, std::optional<MaskArray> mask, std::optional<Floats> sinks,
                                     float scale, float cap, Four out, Four grad, Three logs, Three delta, FourResult grad_q, FourResult grad_k,
                                     FourResult grad_v, int threads, std::optional<std::string> kernels) {
        const Gemm* gemm = required_gemm(kernels, kind);
        const AttentionSizes s = shape_of(q, k, v);
        const AttentionInputs in = inputs_of(s, q, k, v, mask, sinks, scale, cap);
        const auto from = heads_of(out, s.batch, s.heads, s.queries, s.value_width, "out");
        const auto change = heads_of(grad, s.batch, s.heads, s.queries, s.value_width, "grad");
        const auto to_q = heads_of(grad_q, s.batch, s.heads, s.queries, s.width, "grad_q");
        const auto to_k = heads_of(grad_k, s.batch, s.kv_heads, s.keys, s.width, "grad_k");
        const auto to_v = heads_of(grad_v, s.batch, s.kv_heads, s.keys, s.value_width, "grad_v");
        expect_plain(kind, in.q.bf16 || in.k.bf16 || in.v.bf16 || from.bf16 || change.bf16 || to_q.bf16 || to_k.bf16 || to_v.bf16);
        expect_rows(logs, s);
        expect_rows(delta, s);
        nb::gil_scoped_release released;
        attend_gradient(kernels_named(kernels), *gemm, s, in, from, change, logs.data(), delta.data(), to_q, to_k, to_v, Team(threads));
    }, "kind"_a, "q"_a, "k"_a, "v"_a, "mask"_a.none(), "sinks"_a.none(), "scale"_a, "cap"_a, "out"_a, "grad"_a, "logs"_a, "delta"_a, "grad_q"_a,
       "grad_k"_a, "grad_v"_a, "threads"_a, "kernels"_a = nb::none());
}

}  // namespace ordito
