#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bindings.hpp"
#include "packed.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct Named {
    const Kernels* kernels;
};

const float* data_of(const std::optional<Floats>& array) { return array ? array->data() : nullptr; }

// How activations are quantized: for an arithmetic by name, to 8 bits without outliers (`one`), or not at all (float32).
std::optional<Digits> digits_of(const Kernels& kernels, const Packed& w, const std::string& rounding) {
    if (w.format == Format::int16) return Digits::four;
    if (rounding == "int8") return kernels.int8_digits;
    if (rounding == "int12") return Digits::two;
    if (rounding == "one") return Digits::one;
    if (rounding == "float32") return std::nullopt;
    throw std::invalid_argument("got the rounding '" + rounding + "', expected one of int8, int12, one, float32");
}

// W x with activations quantized by `rounding`.
nb::object linear(const Named& self, const Packed& w, Table x, const std::string& rounding) {
    const std::int64_t tokens = x.shape(0), columns = x.shape(1);
    if (columns != w.columns) throw std::invalid_argument("x and the weights differ in columns");
    std::vector<float> y(tokens * w.rows);
    const bool plain = is_plain(w.format);
    std::vector<float> unpacked(plain ? 0 : columns * kRows);
    const auto digits = digits_of(*self.kernels, w, rounding);
    Quantized rounded{nullptr, digits.value_or(Digits::one), self.kernels->int16_pairs && digits != Digits::four, columns, tokens};
    const bool whole = digits && !plain;
    if (whole && !self.kernels->linear_quantized[static_cast<int>(w.format)]) throw std::invalid_argument("no products of int16 in these kernels");
    const auto memory = aligned<std::uint8_t>(whole ? rounded.bytes() : 0);
    rounded.data = memory.get();
    for (std::int64_t t = 0; whole && t < tokens; t++) self.kernels->quantize(x.data() + t * columns, rounded, t);
    for (std::int64_t p = 0; p < w.panels(); p++) {
        const Output out{y.data() + p * kRows, w.rows, nullptr, nullptr, 0, static_cast<int>(std::min<std::int64_t>(kRows, w.rows - p * kRows))};
        const int format = static_cast<int>(w.format);
        if (whole) {
            self.kernels->linear_quantized[format](w.panel(p), rounded, static_cast<int>(tokens), out);
            continue;
        }
        const std::uint8_t* panel = w.panel(p).tiles;
        if (!plain) {
            self.kernels->dequantize[format](w.panel(p), columns, unpacked.data());
            panel = reinterpret_cast<const std::uint8_t*>(unpacked.data());
        }
        self.kernels->linear[plain ? format : 0](panel, nullptr, columns, x.data(), columns, static_cast<int>(tokens), out, out);
    }
    return array_of(y.data(), {static_cast<std::size_t>(tokens), static_cast<std::size_t>(w.rows)});
}

// softmax(q k) v over one page: q (rows, width), k and v (keys, width), with at most 32 rows and 32 keys.
nb::object attend_page(const Named& self, Table q, Table k, Table v, int type) {
    const int rows = static_cast<int>(q.shape(0)), width = static_cast<int>(q.shape(1)), keys = static_cast<int>(k.shape(0));
    const int row = padded_row(width);
    auto page_keys = aligned<std::uint8_t>(4 * (width + 1) * kPage), page_values = aligned<std::uint8_t>(4 * row * kPage);
    std::memset(page_values.get(), 0, 4 * row * kPage);
    std::vector<float> key_scales(kPage), value_scales(kPage), scores(rows * kPage), sums(rows * row), result(rows * width);
    for (int i = 0; i < keys; i++) {
        self.kernels->store_key[type](k.data() + i * width, width, i, page_keys.get(), key_scales.data());
        self.kernels->store_value[type](v.data() + i * width, width, i, page_values.get(), value_scales.data());
    }
    std::vector<float> queries(q.data(), q.data() + rows * width);
    if (type == static_cast<int>(CacheType::int16))
        for (int r = 0; r < rows; r++) self.kernels->round_query(&queries[r * width], width);
    self.kernels->scores[type](queries.data(), width, rows, page_keys.get(), key_scales.data(), width, nullptr, scores.data());
    for (int r = 0; r < rows; r++) std::fill(&scores[r * kPage + keys], &scores[(r + 1) * kPage], -INFINITY);
    std::vector<float> greatest(rows, -INFINITY), total(rows), rescale(rows);
    self.kernels->online_softmax(scores.data(), rows, greatest.data(), total.data(), rescale.data());
    self.kernels->weighted_sum[type](scores.data(), rows, keys, page_values.get(), value_scales.data(), row, nullptr, sums.data(), row);
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < width; h++) result[r * width + h] = sums[r * row + h] / total[r];
    return array_of(result.data(), {static_cast<std::size_t>(rows), static_cast<std::size_t>(width)});
}

// Encodes rows of numbers in a block format; `importance` has a weight for each column.
nb::object encode(const Named& self, const std::string& name, Table x, std::optional<Floats> importance, int threads) {
    const Format format = format_of(name);
    const Layout& form = layout(format);
    const EncodeBlock block = self.kernels->encode[static_cast<int>(format)];
    const std::int64_t rows = x.shape(0), blocks = x.shape(1) / form.block;
    if (!block) throw std::invalid_argument(name + " has no blocks");
    if (blocks * form.block != static_cast<std::int64_t>(x.shape(1))) throw std::invalid_argument("rows are not a whole number of blocks of " + name);
    if (importance && importance->size() != x.shape(1)) throw std::invalid_argument("x and the importance differ in columns");
    const std::vector<float> weights = importance ? std::vector<float>(importance->data(), importance->data() + importance->size())
                                                  : std::vector<float>(x.shape(1), 1.f);
    auto* bytes = new std::uint8_t[std::max<std::int64_t>(rows * blocks * form.block_bytes, 1)];
    nb::capsule owner(bytes, [](void* p) noexcept { delete[] static_cast<std::uint8_t*>(p); });
    {
        nb::gil_scoped_release released;
        Pool(threads).run(rows, [&](std::int64_t r, int) {
            for (std::int64_t b = 0; b < blocks; b++)
                block(x.data() + (r * blocks + b) * form.block, &weights[b * form.block], bytes + (r * blocks + b) * form.block_bytes);
        });
    }
    const std::size_t shape[] = {static_cast<std::size_t>(rows), static_cast<std::size_t>(blocks * form.block_bytes)};
    return nb::cast(nb::ndarray<nb::numpy, std::uint8_t>(bytes, 2, shape, owner));
}

}  // namespace

void bind_kernels(nb::module_& module) {
    nb::class_<Named>(module, "Kernels")
        .def("__init__", [](Named* self, std::optional<std::string> name) { new (self) Named{&kernels_named(name)}; }, "name"_a.none())
        .def_prop_ro("name", [](const Named& self) { return std::string(self.kernels->name); })
        .def_prop_ro("int16", [](const Named& self) { return self.kernels->linear_quantized[static_cast<int>(Format::int16)] != nullptr; })
        .def("linear", &linear, "weights"_a, "x"_a, "rounding"_a)
        .def("dequantize", [](const Named& self, const Packed& w) {
            if (!is_blocked(w.format)) throw std::invalid_argument("only blocks are dequantized");
            std::vector<float> panel(w.columns * kRows), all(w.rows * w.columns);
            for (std::int64_t r = 0; r < w.rows; r++) {
                if (r % kRows == 0) self.kernels->dequantize[static_cast<int>(w.format)](w.panel(r / kRows), w.columns, panel.data());
                for (std::int64_t c = 0; c < w.columns; c++) all[r * w.columns + c] = panel[c * kRows + r % kRows];
            }
            return array_of(all.data(), {static_cast<std::size_t>(w.rows), static_cast<std::size_t>(w.columns)});
        })
        .def("norm", [](const Named& self, Floats x, bool centred, float eps, std::optional<Floats> weight, std::optional<Floats> bias) {
            std::vector<float> y(x.size());
            self.kernels->norm(x.data(), static_cast<std::int64_t>(x.size()), centred, eps, data_of(weight), data_of(bias), y.data());
            return array_of(y.data(), {y.size()});
        }, "x"_a, "centred"_a, "eps"_a, "weight"_a.none(), "bias"_a.none())
        .def("activate", [](const Named& self, const std::string& act, std::optional<Floats> gate, Floats up, float limit, float offset, float slope) {
            std::vector<float> y(up.size());
            self.kernels->activate(activation_named(act), data_of(gate), up.data(), static_cast<std::int64_t>(up.size()), limit, offset, slope, y.data());
            return array_of(y.data(), {y.size()});
        }, "act"_a, "gate"_a.none(), "up"_a, "limit"_a, "offset"_a, "slope"_a)
        .def("scale_and_cap", [](const Named& self, Floats x, float scale, float cap) {
            std::vector<float> y(x.size());
            self.kernels->scale_and_cap(x.data(), static_cast<std::int64_t>(x.size()), scale, cap, y.data());
            return array_of(y.data(), {y.size()});
        })
        .def("rotate", [](const Named& self, Floats x, Floats cos, Floats sin, bool interleaved) {
            std::vector<float> y(x.data(), x.data() + x.size());
            self.kernels->rotate(y.data(), cos.data(), sin.data(), static_cast<std::int64_t>(cos.size()), interleaved);
            return array_of(y.data(), {y.size()});
        })
        .def("encode", &encode, "format"_a, "x"_a, "importance"_a.none(), "threads"_a)
        .def("attend_page", &attend_page);
}

}  // namespace ordito
