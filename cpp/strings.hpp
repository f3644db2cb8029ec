// Many strings in one piece of memory: as Python's, the 262,144 tokens of a vocabulary would take 22 MB, and a dict of them 16.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ordito {

// Strings in UTF-8, each followed by a zero byte, and where each of them is.
class Strings {
  public:
    std::size_t size() const { return ends_.size(); }
    std::string_view operator[](std::size_t i) const {
        const std::size_t begin = i ? ends_[i - 1] + 1 : 0;
        return {text_.data() + begin, ends_[i] - begin};
    }
    const std::string& text() const { return text_; }
    void add(std::string_view string);

    // The first of the strings that equals this one, or -1. The first call indexes them all.
    std::int64_t find(std::string_view string) const;
    // How many of the strings differ from all before them.
    std::size_t distinct() const;
    // Bytes of the longest string.
    std::size_t longest() const;

  private:
    std::string text_;
    std::vector<std::uint64_t> ends_;
    // A hash table with open addressing: each entry is 1 + the number of a string, or 0.
    mutable std::vector<std::uint32_t> table_;
    mutable std::size_t distinct_ = 0;

    void index() const;
    // The entry of this string, or the empty one where it belongs.
    std::size_t entry(std::string_view string) const;
};

}  // namespace ordito
