#include "strings.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

namespace ordito {

namespace {

// Both halves of a product of 64-bit numbers, folded: every bit of the result depends on every bit of both.
std::uint64_t folded_product(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// The seed is another one in every process, so that no file can hold strings whose hashes are all equal.
std::uint64_t hash(std::string_view string) {
    static const std::uint64_t seed = [] {
        std::random_device random;
        return static_cast<std::uint64_t>(random()) << 32 | random();
    }();
    constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 over the golden ratio
    std::uint64_t state = seed ^ string.size() * kOdd, word;
    std::size_t at = 0;
    for (; at + sizeof word <= string.size(); at += sizeof word) {
        std::memcpy(&word, string.data() + at, sizeof word);
        state = folded_product(state ^ word, kOdd ^ seed);
    }
    word = 0;
    std::memcpy(&word, string.data() + at, string.size() - at);
    return folded_product(state ^ word, kOdd ^ seed);
}

}  // namespace

void Strings::add(std::string_view string) {
    if (size() == std::numeric_limits<std::uint32_t>::max()) throw std::length_error("got more than 2^32 - 1 strings");
    text_.append(string).push_back('\0');
    ends_.push_back(text_.size() - 1);
    table_.clear();
}

std::size_t Strings::entry(std::string_view string) const {
    const std::size_t last = table_.size() - 1;
    std::size_t at = hash(string) & last;
    while (table_[at] && (*this)[table_[at] - 1] != string) at = (at + 1) & last;
    return at;
}

void Strings::index() const {
    if (!table_.empty()) return;
    std::size_t entries = 2;
    while (entries < 2 * size()) entries *= 2;
    table_.resize(entries);
    distinct_ = 0;
    for (std::size_t i = 0; i < size(); i++) {
        std::uint32_t& number = table_[entry((*this)[i])];
        if (number) continue;
        number = static_cast<std::uint32_t>(i + 1);
        distinct_++;
    }
}

std::int64_t Strings::find(std::string_view string) const {
    index();
    return static_cast<std::int64_t>(table_[entry(string)]) - 1;
}

std::size_t Strings::distinct() const {
    index();
    return distinct_;
}

std::size_t Strings::longest() const {
    std::size_t most = 0;
    for (std::size_t i = 0; i < size(); i++) most = std::max(most, (*this)[i].size());
    return most;
}

}  // namespace ordito
