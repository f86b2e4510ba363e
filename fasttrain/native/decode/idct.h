#pragma once

#include <cstddef>
#include <cstdint>

namespace fasttrain {

// The inverse DCT of two blocks at once, whose rows are side by side (see McuCoefficients). Each block has
// its own target of `size` x `size` samples. The size is 8, or else 4 or 2 for the means of 2 x 2 or 4 x 4
// samples (libjpeg's reduced IDCTs, up to rounding). Targets are transposed: the sample in column x and row y
// goes to at[x * stride + y].
struct IdctPair {
    int16_t* coefficients;  // 128, zeroed on return
    const int16_t* quantisation;
    int last;  // zigzag index of the last nonzero coefficient in either block
    int size;
    uint8_t* at[2];
    size_t stride[2];
};

// Transforms the pair. The samples equal those of libjpeg's `islow` bit for bit (jidctint.c; Loeffler,
// Ligtenberg and Moschytz, ICASSP 1989).
void idct(const IdctPair& pair);

}  // namespace fasttrain
