// mma.m16n8k16: products of small matrices, of which each lane of a warp holds a few numbers.
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-fragment-mma-16816-float
#pragma once

#include "warp.h"

namespace emulator {

struct Fragments {
    unsigned a[4], b[2];
    float sum[4];
};
static_assert(sizeof(Fragments) <= sizeof(Exchange::given), "does not fit");

// sum += a b on tensor cores: products are exact, sums are floats. All 32 lanes call.
template <class T>
inline void multiply_add(Place place, float (&sum)[4], const unsigned (&a)[4], unsigned b, unsigned below) {
    Thread* self = running;
    Fragments mine = {{a[0], a[1], a[2], a[3]}, {b, below}, {sum[0], sum[1], sum[2], sum[3]}};
    memcpy(self->exchange.given, &mine, sizeof mine);
    in_warp(place, 0xffffffffu, Intrinsic::matrix_product, [place](Thread* lanes, unsigned active) {
        if (active != 0xffffffffu) EMULATOR_STOP("%s:%d: lanes of the warp have ended", place.file, place.line);
        float first[16][16], second[16][8], sums[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            Fragments of;
            memcpy(&of, lanes[lane].exchange.given, sizeof of);
            T two[2];
            for (int e = 0; e < 4; ++e) {
                memcpy(two, &of.a[e], 4);
                for (int n = 0; n < 2; ++n) first[lane / 4 + e % 2 * 8][lane % 4 * 2 + e / 2 * 8 + n] = two[n];
                sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2] = of.sum[e];
            }
            for (int e = 0; e < 2; ++e) {
                memcpy(two, &of.b[e], 4);
                for (int n = 0; n < 2; ++n) second[lane % 4 * 2 + e * 8 + n][lane / 4] = two[n];
            }
        }
        for (int i = 0; i < 16; ++i)
            for (int k = 0; k < 16; ++k)
                for (int j = 0; j < 8; ++j) sums[i][j] += first[i][k] * second[k][j];
        for (int lane = 0; lane < 32; ++lane) {
            float got[4];
            for (int e = 0; e < 4; ++e) got[e] = sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
            memcpy(lanes[lane].exchange.got, got, sizeof got);
        }
    });
    memcpy(sum, self->exchange.got, sizeof sum);
}

}  // namespace emulator
