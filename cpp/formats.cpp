#include "formats.hpp"

#include <bit>
#include <cmath>
#include <iterator>
#include <stdexcept>

namespace ordito {

Format format_of(const std::string& name) {
    for (int number = 0; number < kFileFormats; number++)
        if (name == kLayouts[number].name) return static_cast<Format>(number);
    throw std::invalid_argument("no kernels for weights stored as " + name);
}

std::uint16_t float_to_half(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint16_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    if (magnitude >= 0x47800000u) return sign | 0x7c00u;  // 65536 and beyond
    if (magnitude < 0x38800000u)  // below the smallest normal number: round(value * 2^24)
        return sign | static_cast<std::uint16_t>(std::nearbyint(std::ldexp(std::bit_cast<float>(magnitude), 24)));
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
    return sign | static_cast<std::uint16_t>((rounded - 0x38000000u) >> 13);
}

std::uint16_t float_to_bfloat(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 64);
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

}  // namespace ordito
