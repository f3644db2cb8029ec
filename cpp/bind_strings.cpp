// Arrays of strings in a GGUF file's metadata: a vocabulary has hundreds of thousands, too many to decode in Python.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstring>

#include "bindings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

// Appends `count` strings to `values`. Returns the position after them, or nothing if one would go beyond the end.
std::optional<std::uint64_t> read_strings(Bytes bytes, std::uint64_t position, std::uint64_t count, const std::string& errors, nb::list values) {
    const std::uint64_t size = bytes.size();
    for (std::uint64_t i = 0; i < count; i++) {
        std::uint64_t length;
        if (position > size || size - position < sizeof length) return {};
        std::memcpy(&length, bytes.data() + position, sizeof length);
        position += sizeof length;
        if (length > size - position) return {};
        const auto* text = reinterpret_cast<const char*>(bytes.data() + position);
        PyObject* decoded = PyUnicode_DecodeUTF8(text, static_cast<Py_ssize_t>(length), errors.c_str());
        if (!decoded) throw nb::python_error();
        values.append(nb::steal(decoded));
        position += length;
    }
    return position;
}

}  // namespace

void bind_strings(nb::module_& module) {
    module.def("read_strings", &read_strings, "bytes"_a, "position"_a, "count"_a, "errors"_a, "values"_a);
}

}  // namespace ordito
