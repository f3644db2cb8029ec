// What the files with Python bindings share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace ordito {

using Floats = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;
using Bytes = nanobind::ndarray<const std::uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Arrays and tensors of fp32 or of bfloat16.
using Matrix = nanobind::ndarray<nanobind::ro, nanobind::ndim<2>, nanobind::device::cpu>;
using Result = nanobind::ndarray<nanobind::ndim<2>, nanobind::device::cpu>;
using Four = nanobind::ndarray<nanobind::ro, nanobind::ndim<4>, nanobind::device::cpu>;
using FourResult = nanobind::ndarray<nanobind::ndim<4>, nanobind::device::cpu>;
using Numbers = nanobind::ndarray<float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// Whether an array is bfloat16, not fp32. Throws std::invalid_argument for any other type.
template <class Array>
bool is_bf16(const Array& array) {
    const nanobind::dlpack::dtype type = array.dtype();
    if (type == nanobind::dtype<float>()) return false;
    if (type.code == static_cast<std::uint8_t>(nanobind::dlpack::dtype_code::Bfloat) && type.bits == 16 && type.lanes == 1) return true;
    throw std::invalid_argument("got numbers that are neither float32 nor bfloat16");
}

// A new numpy array with a copy of the data; null data leaves it uninitialized.
nanobind::object array_of(const float* data, std::vector<std::size_t> shape);

// The kernels with this name, or the fastest. Throws std::invalid_argument for a name that this machine has no kernels of.
const Kernels& kernels_named(const std::optional<std::string>& name);

// The activation with this name. Throws std::invalid_argument for an unknown name.
Activation activation_named(const std::string& name);

// Single kernels, for tests, for encoding, and for the activations of pooling layers.
void bind_kernels(nanobind::module_& module);

// Matrix products, attention and losses for training.
void bind_products(nanobind::module_& module);

// Norms, gates and rotary embeddings for training.
void bind_rows(nanobind::module_& module);

// Strings of GGUF files.
void bind_strings(nanobind::module_& module);

}  // namespace ordito
