// CUDA's keywords, vectors and two-byte floats.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __constant__ static
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

// All static shared memory lies in one section of the library, which is filled with NaN before each block.
#define __shared__ static __attribute__((section("emulator_shared")))
#define DTRAIN_EXTERN_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulator::dynamic_shared)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMULATOR_VECTORS(name, T)                                                               \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                          \
    struct name##3 { T x, y, z; };                                                              \
    struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };              \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                          \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(uint, unsigned)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(ushort, unsigned short)
EMULATOR_VECTORS(char, signed char)
EMULATOR_VECTORS(uchar, unsigned char)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
EMULATOR_VECTORS(longlong, long long)
EMULATOR_VECTORS(ulonglong, unsigned long long)
#undef EMULATOR_VECTORS

namespace emulator {

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits need the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// Rounds to the nearest bfloat16, to the even one of two; NaN becomes CUDA's NaN.
inline uint16_t bfloat16_bits(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

}  // namespace emulator

struct __half {
    _Float16 value;
    __half() = default;
    __half(float x) : value(x) {}
    operator float() const { return value; }
};

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(emulator::bfloat16_bits(x)) {}
    operator float() const { return emulator::bits_as<float>(uint32_t(bits) << 16); }
};

// Arithmetic of two halves gives a half, as on the GPU: each result is rounded.
#define EMULATOR_HALF_OPERATOR(T, op)                                        \
    inline T operator op(T a, T b) { return T(float(a) op float(b)); }       \
    inline T& operator op##=(T& a, T b) { return a = a op b; }
#define EMULATOR_HALF_COMPARISON(T, op) \
    inline bool operator op(T a, T b) { return float(a) op float(b); }
#define EMULATOR_HALF(T, name, HalfVector)                                                      \
    EMULATOR_HALF_OPERATOR(T, +)                                                                \
    EMULATOR_HALF_OPERATOR(T, -)                                                                \
    EMULATOR_HALF_OPERATOR(T, *)                                                                \
    EMULATOR_HALF_OPERATOR(T, /)                                                                \
    EMULATOR_HALF_COMPARISON(T, ==)                                                             \
    EMULATOR_HALF_COMPARISON(T, !=)                                                             \
    EMULATOR_HALF_COMPARISON(T, <)                                                              \
    EMULATOR_HALF_COMPARISON(T, >)                                                              \
    EMULATOR_HALF_COMPARISON(T, <=)                                                             \
    EMULATOR_HALF_COMPARISON(T, >=)                                                             \
    inline T operator-(T a) { return T(-float(a)); }                                            \
    inline float __##name##2float(T x) { return x; }                                            \
    inline T __float2##name(float x) { return T(x); }                                           \
    inline T __float2##name##_rn(float x) { return T(x); }                                      \
    inline T __double2##name(double x) { return T(float(x)); }                                  \
    struct alignas(4) HalfVector { T x, y; };                                                   \
    inline float __low2float(HalfVector v) { return v.x; }                                      \
    inline float __high2float(HalfVector v) { return v.y; }
EMULATOR_HALF(__half, half, __half2)
EMULATOR_HALF(__nv_bfloat16, bfloat16, __nv_bfloat162)
#undef EMULATOR_HALF
#undef EMULATOR_HALF_COMPARISON
#undef EMULATOR_HALF_OPERATOR

using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline unsigned short __half_as_ushort(__half x) { return emulator::bits_as<unsigned short>(x); }
inline __half __ushort_as_half(unsigned short x) { return emulator::bits_as<__half>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return emulator::bits_as<__nv_bfloat16>(x); }
