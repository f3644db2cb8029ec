// The KV cache in pages of 32 tokens, which sequences with a common prefix share (copy on write).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/kernels.hpp"
#include "packed.hpp"

namespace ordito {

// What an attention caches of a token: `heads` keys and values of these widths. With `value_in_key` a value is the first
// channels of its key (the latent of multi-head latent attention), stored once. `span`: how many tokens a query looks back,
// itself included; 0: no limit. `of_source`: keys and values of an encoder's text, which are never rewound.
struct SlotShape {
    int heads, key_width, value_width;
    bool value_in_key;
    std::int64_t span;
    bool of_source;
};

// The layout of keys, values and their scales in a page.
class PageLayout {
  public:
    PageLayout(const SlotShape& shape, CacheType type);

    std::size_t bytes() const { return static_cast<std::size_t>(shape_.heads) * head_bytes_; }
    std::uint8_t* keys(std::uint8_t* page, int head) const { return page + head * head_bytes_; }
    std::uint8_t* values(std::uint8_t* page, int head) const { return keys(page, head) + key_bytes_; }
    float* key_scales(std::uint8_t* page, int head) const { return reinterpret_cast<float*>(values(page, head) + value_bytes_); }
    float* value_scales(std::uint8_t* page, int head) const { return key_scales(page, head) + kPage; }
    const SlotShape& shape() const { return shape_; }
    // Channels of a row of values, padded.
    int value_row() const { return padded_row(shape_.value_in_key ? shape_.key_width : shape_.value_width); }

  private:
    SlotShape shape_;
    std::size_t key_bytes_, value_bytes_, head_bytes_;
};

using Page = std::shared_ptr<std::uint8_t[]>;

// Bytes of all pages in use, shared ones counted once.
std::size_t cache_bytes();

// Tokens that windowed slots keep beyond their span, so that a sequence can be rewound by that many.
constexpr std::int64_t kMargin = 64;

class Sequence {
  public:
    Sequence(std::vector<PageLayout> layouts, CacheType type) : layouts_(std::move(layouts)), type_(type), slots_(layouts_.size()) {}

    std::int64_t length = 0;  // cached tokens of the text
    std::int64_t model = 0;   // the number of the runtime that the sequence belongs to
    bool reading = false;     // while a machine reads it: nobody else may change it then

    CacheType type() const { return type_; }
    const PageLayout& layout(int slot) const { return layouts_[slot]; }
    std::int64_t held(int slot) const { return slots_[slot].held; }

    // The page of a slot with the token at this position; null if it was dropped behind the window.
    std::uint8_t* page(int slot, std::int64_t position) const { return slots_[slot].pages[position / kPage].get(); }

    // Adds room for `count` more tokens of a slot, in pages that no other sequence shares.
    void extend(int slot, std::int64_t count);

    // Truncates to the first `length` tokens, or to none if a windowed slot no longer has the keys that they need.
    void rewind(std::int64_t length);

    // Empties a slot.
    void clear(int slot) { slots_[slot] = {}; }

    // Another sequence that begins with the first `length` tokens of this one; pages are shared until they are written.
    std::shared_ptr<Sequence> fork(std::int64_t length) const;

    std::size_t bytes() const;

  private:
    struct Slot {
        std::vector<Page> pages;
        std::int64_t held = 0, first = 0;  // tokens; the first of them that was not dropped
    };

    std::vector<PageLayout> layouts_;
    CacheType type_;
    std::vector<Slot> slots_;
};

}  // namespace ordito
