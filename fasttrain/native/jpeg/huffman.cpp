#include "jpeg/huffman.h"

#include <algorithm>
#include <functional>
#include <iterator>

namespace fasttrain {

bool HuffmanCode::set(const uint8_t counts[16], const uint8_t* symbols, size_t symbol_count) {
    std::fill(std::copy(symbols, symbols + std::min<size_t>(symbol_count, 256), symbols_), std::end(symbols_),
              uint8_t{0});
    uint32_t code = 0;
    size_t index = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
        offset_[length] = static_cast<int32_t>(index) - static_cast<int32_t>(code);
        code += counts[length - 1];
        index += counts[length - 1];
        limit_[length] = code << (16 - length);
    }
    return index <= std::min<size_t>(symbol_count, 256);
}

bool make_optimal(const uint32_t frequencies[256], HuffmanSpec& spec) {
    constexpr int kReserved = 256;  // reserved so that no code is all ones
    constexpr int kLongest = 32;
    int length[kReserved + 1] = {};
    int next[kReserved + 1];  // the next symbol under the same node
    std::fill(std::begin(next), std::end(next), -1);
    // The least frequent symbol is on top. If frequencies are equal, it is the largest symbol.
    std::vector<uint64_t> heap;
    const auto push = [&](uint64_t frequency, int symbol) {
        heap.push_back(frequency << 9 | static_cast<uint64_t>(kReserved - symbol));
        std::push_heap(heap.begin(), heap.end(), std::greater<>());
    };
    const auto pop = [&] {
        std::pop_heap(heap.begin(), heap.end(), std::greater<>());
        const uint64_t least = heap.back();
        heap.pop_back();
        return least;
    };
    for (int symbol = 0; symbol < kReserved; ++symbol)
        if (frequencies[symbol] != 0) push(frequencies[symbol], symbol);
    push(1, kReserved);
    while (heap.size() > 1) {
        const uint64_t first = pop();
        const uint64_t second = pop();
        const int a = kReserved - static_cast<int>(first & 511);
        const int b = kReserved - static_cast<int>(second & 511);
        push((first >> 9) + (second >> 9), a);
        int last = a;
        for (++length[a]; next[last] >= 0; ++length[last]) last = next[last];
        next[last] = b;
        for (int symbol = b; symbol >= 0; symbol = next[symbol]) ++length[symbol];
    }
    int counts[kLongest + 1] = {};
    for (const int each : length) {
        if (each > kLongest) return false;
        ++counts[each];
    }
    int longest = kLongest;
    for (; longest > 16; --longest)
        while (counts[longest] > 0) {
            int shorter = longest - 2;
            while (counts[shorter] == 0) --shorter;
            counts[longest] -= 2;
            ++counts[longest - 1];
            counts[shorter + 1] += 2;
            --counts[shorter];
        }
    while (counts[longest] == 0) --longest;
    --counts[longest];
    for (int i = 1; i <= 16; ++i) spec.counts[i - 1] = static_cast<uint8_t>(counts[i]);
    spec.symbols.clear();
    for (int symbol = 0; symbol < kReserved; ++symbol)
        if (length[symbol] > 0) spec.symbols.push_back(static_cast<uint8_t>(symbol));
    std::stable_sort(spec.symbols.begin(), spec.symbols.end(),
                     [&](uint8_t a, uint8_t b) { return length[a] < length[b]; });
    return true;
}

}  // namespace fasttrain
