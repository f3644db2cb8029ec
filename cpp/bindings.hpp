// What the files that bind share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace ordito {

using Floats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;
using Bytes = nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// A numpy array of its own of so many numbers.
nanobind::object array_of(const float* data, std::vector<std::size_t> shape);

// The kernels of that name, or the fastest. Throws std::invalid_argument where this machine has none of that name.
const Kernels& kernels_named(const std::optional<std::string>& name);

// The activation of that name. Throws std::invalid_argument for an unknown one.
Activation activation_named(const std::string& name);

// Single kernels, for those who hold one set against another.
void bind_kernels(nanobind::module_& module);

// Products of plain matrices.
void bind_products(nanobind::module_& module);

// Strings as GGUF files hold them.
void bind_strings(nanobind::module_& module);

}  // namespace ordito
