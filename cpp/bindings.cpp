// The Python bindings of the runtime: weights, programs, sequences, and a machine that runs programs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "bindings.hpp"
#include "loader.hpp"
#include "plan.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ordito {

Vector vector_of(const std::optional<Floats>& array) {
    return array ? Vector(array->data(), array->data() + array->size()) : Vector{};
}

nb::object array_of(const float* data, std::vector<std::size_t> shape) {
    std::size_t count = 1;
    for (std::size_t size : shape) count *= size;
    auto* copy = new float[count ? count : 1];
    if (data) std::memcpy(copy, data, count * sizeof(float));
    nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, float>(copy, shape.size(), shape.data(), owner));
}

Activation activation_named(const std::string& name) {
    constexpr const char* names[] = {"none", "silu", "gelu", "gelu_tanh", "gelu_sigmoid", "relu", "tanh"};
    for (int number = 0; number < static_cast<int>(std::size(names)); number++)
        if (name == names[number]) return static_cast<Activation>(number);
    throw std::invalid_argument("no kernel for the activation " + name);
}

const Kernels& kernels_named(const std::optional<std::string>& name) {
    std::string known;
    for (const Kernels* kernels : available_kernels()) {
        if (!name || *name == kernels->name) return *kernels;
        known += (known.empty() ? "" : ", ") + std::string(kernels->name);
    }
    throw std::invalid_argument("no kernels '" + *name + "' on this machine, expected one of " + known);
}

namespace {

using Place = std::pair<int, int>;  // buffer, first column

Slice slice(const std::optional<Place>& place) { return place ? Slice{place->first, place->second} : Slice{}; }

Arithmetic arithmetic_of(const std::string& name) {
    if (name == "int8") return Arithmetic::int8;
    if (name == "int12") return Arithmetic::int12;
    if (name == "float32") return Arithmetic::f32;
    throw std::invalid_argument("got the arithmetic '" + name + "', expected one of int8, int12, float32");
}

CacheType cache_type_of(const std::string& name) {
    if (name == "f32") return CacheType::f32;
    if (name == "f16") return CacheType::f16;
    if (name == "q8") return CacheType::q8;
    if (name == "int16") return CacheType::int16;
    throw std::invalid_argument("got the cache type '" + name + "', expected one of f32, f16, q8, int16");
}

// Collects the buffers and operations of a program.
struct Builder {
    std::vector<int> widths;
    std::vector<Operation> operations;

    int buffer(int width) {
        widths.push_back(width);
        return static_cast<int>(widths.size()) - 1;
    }
    std::shared_ptr<Program> build() { return std::make_shared<Program>(widths, operations); }
};

std::vector<Vector> vectors_of(const std::vector<Floats>& arrays) {
    std::vector<Vector> vectors;
    for (const Floats& array : arrays) vectors.emplace_back(array.data(), array.data() + array.size());
    return vectors;
}

// Keeps the memory of the largest result that Python released, for the next result.
class ResultPool {
  public:
    Buffer take() {
        const std::lock_guard<std::mutex> turn(mutex_);
        return std::exchange(memory_, {});
    }
    void put(Buffer memory) {
        const std::lock_guard<std::mutex> turn(mutex_);
        if (memory.size() > memory_.size()) memory_ = std::move(memory);
    }

  private:
    std::mutex mutex_;
    Buffer memory_;
};

// A machine that Python threads share: one at a time holds `mutex`.
struct SharedMachine {
    using Packer = Loader<std::pair<nb::object, Bytes>>;
    SharedMachine(const Kernels& kernels, int threads, Arithmetic arithmetic)
        : machine(kernels, threads, arithmetic), loader(new Packer(machine.pool(), mutex)) {}
    Machine machine;
    std::mutex mutex;
    ResultPool spare_results;
    OwnsThreads<Packer> loader;  // keeps matrices, and the bytes they are packed from, alive

    // Waits until all weights are packed.
    void ready() {
        {
            nb::gil_scoped_release released;
            loader->finish();
        }
        loader->forget();
    }
};

// Owns the memory of a result that Python has; returns it to the machine's pool.
struct ResultOwner {
    Buffer memory;
    std::shared_ptr<SharedMachine> from;
    ~ResultOwner() { from->spare_results.put(std::move(memory)); }
};

// Another thread is running a program on this sequence.
struct Busy : std::runtime_error {
    Busy() : std::runtime_error("another thread reads this sequence: expected one at a time, so lock it or fork it first") {}
};

Sequence& idle(Sequence& sequence) {
    if (sequence.reading) throw Busy();
    return sequence;
}

using GivenRotation = std::pair<Floats, float>;
using GivenPart = std::tuple<std::shared_ptr<Sequence>, std::int64_t, std::int64_t, bool>;  // tokens, position, advance

// Marks sequences as being read. Python's global lock is held by the constructor and the destructor.
class ReadingGuard {
  public:
    explicit ReadingGuard(const std::vector<GivenPart>& given) : given_(given) {
        for (const auto& [sequence, count, position, advance] : given)
            if (idle(*sequence).length != position && advance) throw Busy();  // another thread advanced it meanwhile
        mark(true);
    }
    ~ReadingGuard() { mark(false); }
    ReadingGuard(const ReadingGuard&) = delete;
    ReadingGuard& operator=(const ReadingGuard&) = delete;

  private:
    void mark(bool reading) {
        for (const auto& part : given_) std::get<0>(part)->reading = reading;
    }
    const std::vector<GivenPart>& given_;
};

nb::object run(const std::shared_ptr<SharedMachine>& shared, const Program& program, const std::vector<GivenPart>& given, nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig> ids,
               const std::vector<std::int64_t>& wanted, int greatest, const std::vector<std::vector<GivenRotation>>& rotations,
               const std::vector<Floats>& factors, int result) {
    Batch batch;
    batch.ids.assign(ids.data(), ids.data() + ids.size());
    for (const auto& [sequence, count, position, advance] : given) {
        const std::int64_t first = batch.parts.empty() ? 0 : batch.parts.back().first + batch.parts.back().count;
        batch.parts.push_back({sequence.get(), first, count, position});
    }
    batch.wanted = wanted;
    batch.greatest = greatest;
    for (const auto& table : rotations) {
        batch.rotations.emplace_back();
        for (const auto& [frequencies, magnitude] : table)
            batch.rotations.back().push_back({Vector(frequencies.data(), frequencies.data() + frequencies.size()), magnitude});
    }
    batch.factors = vectors_of(factors);
    shared->ready();
    const ReadingGuard reading(given);
    std::unique_ptr<ResultOwner> owner_of_result(new ResultOwner{{}, shared});
    Machine::Result found;
    {
        nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> turn(shared->mutex);
        shared->machine.recycle(shared->spare_results.take());
        found = shared->machine.run(program, batch, result);
    }
    for (const auto& [sequence, count, position, advance] : given)
        if (advance) sequence->length += count;
    owner_of_result->memory = std::move(found.memory);
    const float* data = owner_of_result->memory.data();
    nb::capsule owner(owner_of_result.release(), [](void* p) noexcept { delete static_cast<ResultOwner*>(p); });
    const std::size_t shape[] = {static_cast<std::size_t>(found.rows), static_cast<std::size_t>(found.columns)};
    const std::int64_t strides[] = {found.stride, 1};
    return nb::cast(nb::ndarray<nb::numpy, float>(const_cast<float*>(data), 2, shape, owner, strides));
}

void bind_builder(nb::module_& module) {
    nb::class_<Builder>(module, "Builder")
        .def(nb::init<>())
        .def("buffer", &Builder::buffer)
        .def("build", &Builder::build)
        .def("embed", [](Builder& b, Place dst, Weights table, float scale, Weights positions, std::int64_t first, std::optional<Floats> types) {
            b.operations.push_back(Embed{slice(dst), table, scale, positions, first, vector_of(types)});
        }, "dst"_a, "table"_a, "scale"_a, "positions"_a.none(), "first_position"_a, "types"_a.none())
        .def("norm", [](Builder& b, Place src, Place dst, int width, int count, bool centred, float eps, std::optional<Floats> weight, std::optional<Floats> bias) {
            b.operations.push_back(Norm{slice(src), slice(dst), width, count, centred, eps, vector_of(weight), vector_of(bias)});
        }, "src"_a, "dst"_a, "width"_a, "count"_a, "centred"_a, "eps"_a, "weight"_a.none(), "bias"_a.none())
        .def("linear", [](Builder& b, Place src, Place dst, std::optional<Place> add, const std::vector<std::tuple<Weights, std::optional<Floats>, int, int>>& maps, bool screened) {
            Linear op{slice(src), slice(dst), slice(add), {}, screened};
            const Map* quantizing = nullptr;
            op.maps.reserve(maps.size());
            for (const auto& [weights, bias, from, to] : maps) {
                op.maps.push_back({weights, vector_of(bias), from, to});
                if (is_plain(weights->format)) continue;
                if (quantizing && quantizing->from != from) throw std::invalid_argument("matrices that are not plain have to read the same columns");
                quantizing = &op.maps.back();
            }
            b.operations.push_back(std::move(op));
        }, "src"_a, "dst"_a, "add"_a.none(), "maps"_a, "screened"_a = false)
        .def("rotate", [](Builder& b, Place at, int count, int width, int table, bool interleaved) {
            b.operations.push_back(Rotate{slice(at), count, width, table, interleaved});
        }, "at"_a, "count"_a, "width"_a, "table"_a, "interleaved"_a)
        .def("temper", [](Builder& b, Place at, int columns, int table) { b.operations.push_back(Temper{slice(at), columns, table}); })
        .def("store", [](Builder& b, int slot, Place k, std::optional<Place> v) { b.operations.push_back(Store{slot, slice(k), slice(v)}); },
             "slot"_a, "k"_a, "v"_a.none())
        .def("attend", [](Builder& b, int slot, Place q, Place dst, int n_heads, float scale, bool causal, bool cross, std::int64_t window,
                          std::int64_t chunk, float softcap, std::optional<Floats> sinks, std::optional<Floats> relative, int n_buckets,
                          int max_distance, std::tuple<int, int, int> sparse) {
            AttentionShape shape{slot, n_heads, scale, causal, cross, window, chunk, softcap, vector_of(sinks), vector_of(relative),
                                 n_buckets, max_distance, std::get<0>(sparse), std::get<1>(sparse), std::get<2>(sparse)};
            b.operations.push_back(Attend{std::move(shape), slice(q), slice(dst)});
        }, "slot"_a, "q"_a, "dst"_a, "n_heads"_a, "scale"_a, "causal"_a = true, "cross"_a = false, "window"_a = 0, "chunk"_a = 0,
             "softcap"_a = 0, "sinks"_a.none() = nb::none(), "relative"_a.none() = nb::none(), "n_buckets"_a = 0, "max_distance"_a = 0,
             "sparse"_a = std::tuple(0, 0, 0))
        .def("activate", [](Builder& b, std::optional<Place> gate, Place up, Place dst, int columns, std::optional<std::string> act, float limit, float offset, float slope) {
            b.operations.push_back(Activate{slice(gate), slice(up), slice(dst), columns, activation_named(act.value_or("none")), limit, offset, slope});
        }, "gate"_a.none(), "up"_a, "dst"_a, "columns"_a, "act"_a.none(), "limit"_a, "offset"_a, "slope"_a)
        .def("add", [](Builder& b, Place x, Place y, Place dst, int columns) { b.operations.push_back(Add{slice(x), slice(y), slice(dst), columns}); })
        .def("scale", [](Builder& b, Place src, Place dst, int columns, float scale, float cap) {
            b.operations.push_back(Scale{slice(src), slice(dst), columns, scale, cap});
        })
        .def("forbid", [](Builder& b, Place at, const std::vector<int>& columns) { b.operations.push_back(Forbid{slice(at), columns}); })
        .def("gate", [](Builder& b, Place src, Place gate, Place dst, int columns) {
            b.operations.push_back(Gate{slice(src), slice(gate), slice(dst), columns});
        })
        .def("select", [](Builder& b, Place src, Place dst, int columns) { b.operations.push_back(Select{slice(src), slice(dst), columns}); })
        .def("experts", [](Builder& b, Place src, Place logits, Place dst, int columns, int hidden, const nb::dict& router,
                           const std::vector<Weights>& gate, const std::vector<Weights>& up, const std::vector<Weights>& down,
                           const std::vector<Floats>& gate_bias, const std::vector<Floats>& up_bias, const std::vector<Floats>& down_bias,
                           bool weigh_input, std::optional<std::string> act, float limit, float offset, float slope) {
            const auto integer = [&](const char* key) { return nb::cast<int>(router[key]); };
            const auto score = nb::cast<std::string>(router["score"]);
            RouterShape shape{integer("n_experts"), integer("top_k"),
                              score == "sigmoid" ? Score::sigmoid : score == "sparsemixer" ? Score::sparsemixer : Score::softmax,
                              nb::cast<bool>(router["choose_first"]), nb::cast<bool>(router["renormalise"]), nb::cast<float>(router["scale"]),
                              vector_of(nb::cast<std::optional<Floats>>(router["choice_bias"])), integer("n_groups"), integer("top_groups"),
                              nb::cast<bool>(router["group_by_two"]), nb::cast<float>(router["jitter"]), integer("capacity")};
            b.operations.push_back(Experts{slice(src), slice(logits), slice(dst), std::move(shape), gate, up, down, vectors_of(gate_bias),
                                           vectors_of(up_bias), vectors_of(down_bias), columns, hidden, weigh_input, activation_named(act.value_or("none")), limit,
                                           offset, slope});
        }, "src"_a, "logits"_a, "dst"_a, "columns"_a, "hidden"_a, "router"_a, "gate"_a, "up"_a, "down"_a, "gate_bias"_a, "up_bias"_a,
             "down_bias"_a, "weigh_input"_a, "act"_a.none(), "limit"_a, "offset"_a, "slope"_a);
    nb::class_<Program>(module, "Program");
}

void bind_machine(nb::module_& module) {
    nb::class_<SharedMachine>(module, "Machine")
        .def("__init__", [](SharedMachine* self, int threads, std::optional<std::string> kernels, const std::string& arithmetic) {
            if (threads < 1 || threads > 1024) throw std::invalid_argument("got " + std::to_string(threads) + " threads, expected 1 to 1024");
            new (self) SharedMachine(kernels_named(kernels), threads, arithmetic_of(arithmetic));
        }, "threads"_a, "kernels"_a.none(), "arithmetic"_a)
        .def("allocate", [](SharedMachine& t, const std::string& format, std::int64_t rows, std::int64_t columns, bool split, bool keep) {
            if (rows < 0 || columns < 0 || rows >= std::int64_t{1} << 40 || columns >= std::int64_t{1} << 20)
                throw std::invalid_argument("got a matrix of " + std::to_string(rows) + " x " + std::to_string(columns));
            return t.machine.allocate(format_of(format), rows, columns, split, keep);
        }, "format"_a, "rows"_a, "columns"_a, "split"_a = false, "keep"_a = false)
        .def("fill", [](SharedMachine& t, nb::object matrix, Bytes bytes, bool mapped) {
            Packed& packed = nb::cast<Packed&>(matrix);
            const Layout& form = layout(packed.file);
            const std::size_t row = static_cast<std::size_t>(packed.columns / form.block) * form.block_bytes;
            const std::int64_t count = row ? static_cast<std::int64_t>(bytes.size() / row) : 0;
            if (count != packed.rows || count * row != bytes.size())
                throw std::invalid_argument("got " + std::to_string(bytes.size()) + " bytes for " + std::to_string(packed.rows) + " x " +
                                            std::to_string(packed.columns) + " numbers in " + form.name);
            t.loader->forget();
            std::pair<nb::object, Bytes> kept(matrix, bytes);
            nb::gil_scoped_release released;
            t.loader->add({&packed, count, bytes.data(), bytes.size(), mapped, std::move(kept)});
        }, "packed"_a, "bytes"_a, "mapped"_a)
        .def("ready", &SharedMachine::ready)
        .def("peak", [](SharedMachine& t) {
            t.ready();
            nb::gil_scoped_release released;
            const std::lock_guard<std::mutex> turn(t.mutex);
            return t.machine.peak();
        })
        .def("bandwidth", [](SharedMachine& t) {
            t.ready();
            nb::gil_scoped_release released;
            const std::lock_guard<std::mutex> turn(t.mutex);
            return t.machine.bandwidth();
        })
        .def("watch", [](SharedMachine& t) { t.machine.watch(); })
        .def("inputs", [](SharedMachine& t, const Packed& packed) {
            const Machine::Inputs inputs = t.machine.inputs(packed);
            const std::vector<float> squares(inputs.squares.begin(), inputs.squares.end());
            return nb::make_tuple(array_of(squares.data(), {squares.size()}), inputs.tokens);
        })
        .def("run", &run, "program"_a, "parts"_a, "ids"_a, "wanted"_a, "greatest"_a, "rotations"_a, "factors"_a, "result"_a);
}

void bind_packed(nb::module_& module) {
    nb::class_<Packed>(module, "Packed")
        .def_prop_ro("shape", [](const Packed& p) { return std::make_pair(p.rows, p.columns); })
        .def_prop_ro("nbytes", &Packed::bytes)
        .def_prop_ro("lower_bytes", &Packed::lower_bytes)
        .def("row", [](const Packed& p, std::int64_t row) {
            if (row < 0 || row >= p.rows) throw nb::index_error("no such row");
            std::vector<float> values(p.columns);
            dequantize_row(p, row, values.data());
            return array_of(values.data(), {values.size()});
        });
}

void bind_sequence(nb::module_& module) {
    nb::class_<Sequence>(module, "Cached")
        .def("__init__", [](Sequence* self, const std::vector<std::tuple<int, int, int, bool, std::int64_t, bool>>& slots, const std::string& type, std::int64_t model) {
            CacheType of_numbers = cache_type_of(type);
            for (const auto& slot : slots)  // a query of one channel has no room for its scale (`round_query`)
                if (of_numbers == CacheType::int16 && std::get<1>(slot) < 2) of_numbers = CacheType::f16;
            std::vector<PageLayout> layouts;
            for (const auto& [heads, key, value, value_in_key, span, of_source] : slots)
                layouts.emplace_back(SlotShape{heads, key, value, value_in_key, span, of_source}, of_numbers);
            new (self) Sequence(std::move(layouts), of_numbers);
            self->model = model;
        }, "slots"_a, "type"_a, "model"_a = 0)
        .def_ro("length", &Sequence::length)
        .def_ro("model", &Sequence::model)
        .def("rewind", [](Sequence& self, std::int64_t length) { idle(self).rewind(length); })
        .def("clear", [](Sequence& self, int slot) { idle(self).clear(slot); })
        .def("fork", [](Sequence& self, std::int64_t length) { return idle(self).fork(length); })
        .def_prop_ro("nbytes", &Sequence::bytes);
}

}  // namespace
}  // namespace ordito

NB_MODULE(_core, module) {
    // Objects that a process still holds when it ends are no leak, and the warning would confuse users.
    nb::set_leak_warnings(false);
    using namespace ordito;

    module.def("available_kernels", [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
        return names;
    });

    nanobind::exception<Busy>(module, "Busy", PyExc_ValueError);
    module.def("cache_bytes", &cache_bytes);

    bind_machine(module);
    bind_packed(module);
    bind_sequence(module);
    bind_builder(module);
    bind_kernels(module);
    bind_products(module);
    bind_rows(module);
    bind_strings(module);
}
