#include "screening.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "threads.hpp"

namespace ordito {

namespace {

constexpr float kDeviations = 7;                // exp(-7^2 / 2) = 2e-11: one token in 40 billion
constexpr std::int64_t kPanelsAtOnce = 8;       // panels of a piece of exact products
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Scales of a row of a tile.
int scales_of(const Packed& w) { return layout(w.format).scales == Scales::k16 ? 2 : 1; }

// The k largest values that were pushed, and their places; `threshold` is the least of them.
class TopK {
  public:
    explicit TopK(std::size_t count) : count_(count) {}
    void push(float value, std::int64_t place) {
        if (kept_.size() == count_) {
            if (!(value > kept_.front().first)) return;
            std::pop_heap(kept_.begin(), kept_.end(), std::greater<>());
            kept_.pop_back();
        }
        kept_.emplace_back(value, place);
        std::push_heap(kept_.begin(), kept_.end(), std::greater<>());
    }
    float threshold() const { return kept_.front().first; }
    const std::vector<std::pair<float, std::int64_t>>& kept() const { return kept_; }

  private:
    std::size_t count_;
    std::vector<std::pair<float, std::int64_t>> kept_;
};

// Of a token's products with each panel: the largest estimate of its rows, and an upper bound of its products.
struct Estimates {
    std::vector<float> middle, bound;
};

class Screening {
  public:
    Screening(const Packed& w, const Screened& x, const Rows& products, const Kernels& kernels, Pool& pool)
        : w_(w), x_(x), products_(products), k_(kernels), pool_(pool), steps_(static_cast<float>(lower_steps(w.format))),
          upper_(static_cast<int>(upper_of(w.format))), estimates_(x.count) {
        const int scales = scales_of(w);
        const std::int64_t columns = kCols / scales;
        spreads_.resize(x.count * w.tiles() * scales);
        const float even = (steps_ * steps_ - 1) / 12;  // the variance of uniform lower bits
        // What quantizing the tokens to 8 bits adds: (largest / 127)^2 / 12 times the squares of codes, which are at most 8
        // times `steps`; the largest square is no more than the sum of squares of its block.
        const float rounding = static_cast<float>(columns) / 12 * (8 * steps_ / 127) * (8 * steps_ / 127);
        const float by = kDeviations * kDeviations / (steps_ * steps_);
        for (std::int64_t number = 0; number < x.count * w.tiles(); number++) {
            const float* from = x.numbers + number / w.tiles() * x.stride + number % w.tiles() * kCols;
            const auto squares = [from](std::int64_t first, std::int64_t last) { return std::inner_product(from + first, from + last, from + first, 0.f); };
            for (int scale = 0; scale < scales; scale++)
                spreads_[number * scales + scale] = by * (even * squares(scale * columns, (scale + 1) * columns) + rounding * squares(0, kCols));
        }
        for (Estimates& of : estimates_) of.middle.resize(w.panels()), of.bound.resize(w.panels());
    }

    bool operator()(int greatest) {
        const std::int64_t step = std::max<std::int64_t>(1, kPieceBytes / static_cast<std::int64_t>(w_.stride()));
        pool_.run((w_.panels() + step - 1) / step, [&](std::int64_t number, int) {
            const std::int64_t from = number * step, to = std::min(w_.panels(), from + step);
            for (std::int64_t p = from; p < to; p++) estimate(p);
            for (std::int64_t t = 0; t < x_.count; t++)
                std::fill(products_[t] + from * kRows, products_[t] + std::min(w_.rows, to * kRows), kMinusInfinity);
        });
        std::vector<std::vector<std::int64_t>> chosen(x_.count);  // [token]: panels
        pool_.run(x_.count, [&](std::int64_t t, int) { chosen[t] = choose(t, greatest); });
        std::vector<std::pair<std::int64_t, std::int64_t>> wanted;
        for (std::int64_t t = 0; t < x_.count; t++)
            for (const std::int64_t p : chosen[t]) wanted.emplace_back(t, p);
        const auto count = static_cast<std::int64_t>(wanted.size());
        if (count > w_.panels() * (8 + x_.count) / 16) return false;  // then single panels cost more than the whole matrix
        pool_.run((count + kPanelsAtOnce - 1) / kPanelsAtOnce, [&](std::int64_t number, int) {
            for (std::int64_t i = number * kPanelsAtOnce; i < std::min(count, (number + 1) * kPanelsAtOnce); i++)
                multiply_exactly(wanted[i].second, wanted[i].first);
        });
        return true;
    }

  private:
    int rows_of(std::int64_t panel) const { return static_cast<int>(std::min<std::int64_t>(kRows, w_.rows - panel * kRows)); }

    void estimate(std::int64_t panel) {
        alignas(64) float parts[kMaxScreened][kRows];
        float most[kMaxScreened];
        const int rows = rows_of(panel), tokens = static_cast<int>(x_.count);
        float* first = &parts[0][0];
        if (rows < kRows) std::fill(first, first + tokens * kRows, kMinusInfinity);
        k_.linear_quantized[upper_](w_.panel(panel), x_.rough, tokens, {first, kRows, nullptr, nullptr, 0, rows});
        k_.bound[upper_](w_.panel(panel).tiles, w_.columns, spreads_.data(), first, tokens, most);
        for (int t = 0; t < tokens; t++) {
            float middle = kMinusInfinity;
#pragma omp simd reduction(max : middle)
            for (int r = 0; r < kRows; r++) middle = std::max(middle, parts[t][r]);
            estimates_[t].middle[panel] = steps_ * middle;
            estimates_[t].bound[panel] = steps_ * most[t];
        }
    }

    // The panels that may hold one of the largest products, without those that have the largest estimates: these are multiplied
    // here, to get a threshold for the others.
    std::vector<std::int64_t> choose(std::int64_t token, int greatest) {
        Estimates& of = estimates_[token];
        TopK panels(greatest), products(greatest);
        for (std::int64_t p = 0; p < w_.panels(); p++) panels.push(of.middle[p], p);
        for (const auto& [middle, p] : panels.kept()) {
            multiply_exactly(p, token);
            of.bound[p] = kMinusInfinity;
            for (int r = 0; r < rows_of(p); r++) products.push(products_[token][p * kRows + r], 0);
        }
        std::vector<std::int64_t> chosen;
        for (std::int64_t p = 0; p < w_.panels(); p++)
            if (of.bound[p] >= products.threshold()) chosen.push_back(p);
        return chosen;
    }

    void multiply_exactly(std::int64_t panel, std::int64_t token) {
        const Output out{products_[token] + panel * kRows, products_.stride, nullptr, nullptr, 0, rows_of(panel)};
        k_.linear_quantized[static_cast<int>(w_.format)](w_.panel(panel), x_.exact.part(token, 1), 1, out);
    }

    const Packed& w_;
    const Screened& x_;
    const Rows& products_;
    const Kernels& k_;
    Pool& pool_;
    float steps_;  // values of the lower bits: the factor from products with upper bits to those with whole codes
    int upper_;    // the format of the upper bits
    std::vector<Estimates> estimates_;
    std::vector<float> spreads_;  // [token][tile][scale]: variance of the estimate's error for a scale of 1, in products
                                  // with upper bits, times kDeviations^2
};

}  // namespace

bool many_valued(const Packed& w) {
    constexpr std::int64_t kSample = 128;  // rows
    const std::int64_t block = kCols / scales_of(w);
    std::int64_t different = 0, all = 0;
    std::vector<float> row(w.columns);
    std::vector<std::uint32_t> bits(w.columns);  // compared as bits: a damaged file may hold NaN, which cannot be sorted
    for (std::int64_t r = 0; r < w.rows; r += std::max<std::int64_t>(1, w.rows / kSample), all += w.columns) {
        dequantize_row(w, r, row.data());
        std::memcpy(bits.data(), row.data(), row.size() * sizeof(float));
        for (auto first = bits.begin(); first != bits.end(); first += block) {
            std::sort(first, first + block);
            different += std::unique(first, first + block) - first;
        }
    }
    return 3 * different > 2 * all;
}

bool screen(const Packed& w, const Screened& x, int greatest, const Rows& products, const Kernels& kernels, Pool& pool) {
    return Screening(w, x, products, kernels, pool)(greatest);
}

}  // namespace ordito
