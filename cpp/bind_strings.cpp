// Strings for Python, and arrays of strings in a GGUF file's metadata.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <set>

#include "bindings.hpp"
#include "strings.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

namespace {

// Calls with(UTF-8) for a string of Python; a lone surrogate has three bytes there, as if it were a character.
template <class With>
auto with_utf8(nb::str string, With with) {
    Py_ssize_t size;
    if (const char* text = PyUnicode_AsUTF8AndSize(string.ptr(), &size)) return with(std::string_view(text, static_cast<std::size_t>(size)));
    PyErr_Clear();
    const auto bytes = nb::steal<nb::bytes>(PyUnicode_AsEncodedString(string.ptr(), "utf-8", "surrogatepass"));
    if (!bytes.is_valid()) throw nb::python_error();
    return with(std::string_view(bytes.c_str(), bytes.size()));
}

nb::str decoded(std::string_view text, const char* errors) {
    PyObject* string = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), errors);
    if (!string) throw nb::python_error();
    return nb::steal<nb::str>(string);
}

bool is_ascii(std::string_view text) {
    unsigned char all = 0;
    for (const char byte : text) all |= static_cast<unsigned char>(byte);
    return all < 128;
}

nb::str item(const Strings& self, Py_ssize_t i) {
    const auto size = static_cast<Py_ssize_t>(self.size());
    if (i < 0) i += size;
    if (i < 0 || i >= size) throw nb::index_error("there are fewer strings");
    return decoded(self[static_cast<std::size_t>(i)], "surrogatepass");
}

nb::list slice(const Strings& self, const nb::slice& which) {
    nb::list found;
    const auto [start, stop, step, count] = which.compute(self.size());
    for (std::size_t i = 0; i < count; i++) found.append(item(self, start + static_cast<Py_ssize_t>(i) * step));
    return found;
}

// Adds `count` strings, of which each is its length in 8 bytes and then its UTF-8. Returns the position after them, or nothing if
// one would go beyond the end.
std::optional<std::uint64_t> read(Strings& self, Bytes bytes, std::uint64_t position, std::uint64_t count, const std::string& errors) {
    const std::uint64_t size = bytes.size();
    for (std::uint64_t i = 0; i < count; i++) {
        std::uint64_t length;
        if (position > size || size - position < sizeof length) return {};
        std::memcpy(&length, bytes.data() + position, sizeof length);
        position += sizeof length;
        if (length > size - position) return {};
        const std::string_view text(reinterpret_cast<const char*>(bytes.data() + position), length);
        if (is_ascii(text)) self.add(text);
        else with_utf8(decoded(text, errors.c_str()), [&](std::string_view valid) { self.add(valid); });
        position += length;
    }
    return position;
}

std::optional<std::int64_t> find(const Strings& self, nb::str string) {
    const std::int64_t found = with_utf8(string, [&](std::string_view text) { return self.find(text); });
    if (found < 0) return {};
    return found;
}

// The first of the merges "left right" whose union is none of the tokens, or nothing. A space at the beginning belongs to the left.
std::optional<std::size_t> lost_merge(const Strings& merges, const Strings& tokens) {
    for (std::size_t i = 0; i < merges.size(); i++) {
        std::string joined(merges[i]);
        const std::size_t space = joined.find(' ', 1);
        if (space != std::string::npos) joined.erase(space, 1);
        if (tokens.find(joined) < 0) return i;
    }
    return {};
}

// The characters that precede `string` somewhere in the strings.
nb::str characters_before(const Strings& self, nb::str string) {
    const std::string& text = self.text();
    std::set<std::string> found;
    with_utf8(string, [&](std::string_view wanted) {
        for (std::size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
            std::size_t begin = at;
            while (begin > 0 && (text[--begin] & 0xc0) == 0x80) {}
            if (begin < at && text[begin]) found.insert(text.substr(begin, at - begin));
        }
    });
    std::string all;
    for (const std::string& character : found) all += character;
    return decoded(all, "surrogatepass");
}

}  // namespace

void bind_strings(nb::module_& module) {
    auto bound = nb::class_<Strings>(module, "Strings");
    bound
        .def("__init__", [](Strings* self, nb::iterable strings) {
            new (self) Strings();
            for (nb::handle string : strings) {
                if (!nb::isinstance<nb::str>(string)) throw nb::type_error("got something that is no string");
                with_utf8(nb::borrow<nb::str>(string), [&](std::string_view text) { self->add(text); });
            }
        }, "strings"_a = nb::make_tuple())
        .def("__len__", &Strings::size)
        .def("__getitem__", &item)
        .def("__getitem__", &slice)
        .def("__contains__", [](const Strings& self, nb::handle string) {
            return nb::isinstance<nb::str>(string) && find(self, nb::borrow<nb::str>(string)).has_value();
        })
        .def("__eq__", [](const Strings& self, nb::handle other) {
            if (nb::isinstance<Strings>(other)) {
                const auto& strings = nb::cast<const Strings&>(other);
                return self.size() == strings.size() && self.text() == strings.text();
            }
            return nb::list(nb::cast(&self, nb::rv_policy::reference)).equal(other);
        })
        .def("__repr__", [](const Strings& self) { return nb::str("<{} strings>").format(self.size()); })
        .def("__reduce__", [](nb::handle self) { return nb::make_tuple(self.type(), nb::make_tuple(nb::list(self))); })
        .def("find", &find, "string"_a)
        .def_prop_ro("distinct", &Strings::distinct)
        .def_prop_ro("longest", &Strings::longest)
        .def("characters_before", &characters_before, "string"_a)
        .def("read", &read, "bytes"_a, "position"_a, "count"_a, "errors"_a);
    bound.attr("__hash__") = nb::none();  // they can grow, and equal lists, which have none
    module.def("lost_merge", &lost_merge, "merges"_a, "tokens"_a);
}

}  // namespace ordito
