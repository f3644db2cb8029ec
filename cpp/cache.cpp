#include "cache.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

namespace ordito {

namespace {

std::size_t number_bytes(CacheType type) { return type == CacheType::f32 ? 4 : type == CacheType::q8 ? 1 : 2; }

// Pages of all sequences, cut from blocks of at least the size of the system's large pages: with small ones a core spends more
// time on address translation than on reading the cache. Free pages are reused.
class PageStore {
  public:
    static PageStore& shared() {
        static PageStore* store = new PageStore;  // never destroyed: pages may outlive everything else
        return *store;
    }

    std::size_t used() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return used_;
    }

    Page take(std::size_t bytes) {
        std::uint8_t* page;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            std::vector<std::uint8_t*>& free = free_[bytes];
            if (free.empty()) cut_block(bytes, free);
            page = free.back();
            free.pop_back();
            used_ += bytes;
        }
        return Page(page, [this, bytes](std::uint8_t* page) {
            const std::lock_guard<std::mutex> lock(mutex_);
            free_[bytes].push_back(page);
            used_ -= bytes;
        });
    }

  private:
    void cut_block(std::size_t bytes, std::vector<std::uint8_t*>& free) {
        Arena one;
        const std::size_t count = (kLargePage + bytes - 1) / bytes;
        blocks_.push_back(one.cut(count * bytes, count * bytes));
        for (std::size_t number = count; number-- > 0;) free.push_back(blocks_.back().get() + number * bytes);
    }

    std::mutex mutex_;
    std::size_t used_ = 0;
    std::map<std::size_t, std::vector<std::uint8_t*>> free_;
    std::vector<std::shared_ptr<std::uint8_t>> blocks_;
};

// Adds contiguous pages: one that follows the last in memory is read fastest.
void add_pages(std::vector<Page>& pages, std::size_t bytes) {
    constexpr std::size_t kMostTogether = 8;
    const std::size_t count = std::clamp<std::size_t>(pages.size(), 1, kMostTogether);
    const Page all = PageStore::shared().take(count * bytes);
    for (std::size_t number = 0; number < count; number++)
        pages.emplace_back(all.get() + number * bytes, [all](std::uint8_t*) {});  // a use count of its own
}

}  // namespace

std::size_t cache_bytes() { return PageStore::shared().used(); }

PageLayout::PageLayout(const SlotShape& shape, CacheType type) : shape_(shape) {
    const int key_width = type == CacheType::int16 ? (shape.key_width + 1) / 2 * 2 : shape.key_width;
    key_bytes_ = shape.value_in_key ? 0 : key_width * kPage * number_bytes(type);
    value_bytes_ = value_row() * kPage * number_bytes(type);
    head_bytes_ = key_bytes_ + value_bytes_ + (has_scales(type) ? 2 * kPage * sizeof(float) : 0);
    head_bytes_ = (head_bytes_ + 63) / 64 * 64;
}

void Sequence::extend(int number, std::int64_t count) {
    Slot& slot = slots_[number];
    const PageLayout& form = layouts_[number];
    if (form.shape().span) {  // drop pages that no window reaches any more
        const std::int64_t first = std::max<std::int64_t>(slot.first, slot.held - form.shape().span + 1 - kMargin) / kPage * kPage;
        for (std::int64_t p = slot.first / kPage; p < first / kPage; p++) slot.pages[p].reset();
        slot.first = std::max(slot.first, first);
    }
    const std::int64_t end = slot.held + count;
    for (std::int64_t p = slot.held / kPage; p * kPage < end; p++) {
        if (p == static_cast<std::int64_t>(slot.pages.size())) add_pages(slot.pages, form.bytes());
        else if (slot.pages[p].use_count() > 1) {
            Page own = PageStore::shared().take(form.bytes());
            std::memcpy(own.get(), slot.pages[p].get(), form.bytes());
            slot.pages[p] = std::move(own);
        }
    }
    slot.held = end;
}

void Sequence::rewind(std::int64_t to) {
    to = std::clamp<std::int64_t>(to, 0, length);
    for (std::size_t s = 0; s < slots_.size(); s++) {
        const SlotShape& shape = layouts_[s].shape();
        if (shape.span && !shape.of_source && slots_[s].first > std::max<std::int64_t>(0, to - shape.span + 1)) to = 0;
    }
    for (std::size_t s = 0; s < slots_.size(); s++) {
        if (layouts_[s].shape().of_source) continue;
        Slot& slot = slots_[s];
        slot.held = std::min(slot.held, to);
        slot.pages.resize((slot.held + kPage - 1) / kPage);
        if (to == 0) slot.first = 0;
    }
    length = to;
}

std::shared_ptr<Sequence> Sequence::fork(std::int64_t to) const {
    auto other = std::make_shared<Sequence>(*this);
    other->rewind(to);
    return other;
}

std::size_t Sequence::bytes() const {
    std::size_t total = 0;
    for (std::size_t s = 0; s < slots_.size(); s++)
        for (const Page& page : slots_[s].pages) total += page ? layouts_[s].bytes() : 0;
    return total;
}

}  // namespace ordito
