/* SPDX-License-Identifier: MIT */
/* Floating point with known answers: bit patterns of double, float and long double results, rounding modes, exceptions. */
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "check.h"

static uint64_t bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, 8);
    return b;
}

static uint32_t bits_f(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}

int main(void)
{
    volatile double one = 1, three = 3, two = 2, tenth = 0.1, huge = 1e308, zero = 0;
    volatile float onef = 1, threef = 3;
    volatile long double onel = 1, threel = 3;

    CHECK(bits(one / three) == 0x3fd5555555555555);
    CHECK(bits(sqrt(two)) == 0x3ff6a09e667f3bcd);
    CHECK(bits(tenth + 2 * tenth) == 0x3fd3333333333334);
    CHECK(bits_f(onef / threef) == 0x3eaaaaab);
    CHECK(bits(huge * 10) == 0x7ff0000000000000);
    CHECK(isnan(zero / zero) && bits(-zero) == 0x8000000000000000);
    CHECK(bits(floor(-2.5)) == bits(-3.0) && bits(rint(2.5)) == bits(2.0));
    CHECK((int64_t)(volatile double){-123456789.75} == -123456789);
    CHECK(bits((double)(volatile int64_t){9007199254740993}) == bits(9007199254740992.0));
    CHECK((uint64_t)(volatile double){1.8e19} == 18000000000000000000ull);
    CHECK(bits(fma(tenth, 10.0, -1.0)) == bits(0x1p-54));

    unsigned char third[16] = {0};
    long double quotient = onel / threel;
    memcpy(third, &quotient, 10);
    CHECK(!memcmp(third, "\xab\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xfd\x3f", 10));

    fesetround(FE_UPWARD);
    CHECK(bits(one / three) == 0x3fd5555555555556);
    CHECK(bits((double)(onel / threel)) == 0x3fd5555555555556);
    fesetround(FE_TOWARDZERO);
    CHECK(bits(two / three) == 0x3fe5555555555555);
    fesetround(FE_TONEAREST);
    feclearexcept(FE_ALL_EXCEPT);
    volatile double sink = one / zero;
    CHECK(fetestexcept(FE_DIVBYZERO) && isinf(sink));
    feclearexcept(FE_ALL_EXCEPT);
    sink = one / two;
    CHECK(!fetestexcept(FE_ALL_EXCEPT));
    sink = one / three;
    CHECK(fetestexcept(FE_INEXACT));

    /* Gauss-Legendre: pi to the last place but one. */
    double a = 1, b = 1 / sqrt(two), t = 0.25, p = 1;
    for (int i = 0; i < 4; i++) {
        double next = (a + b) / 2;
        b = sqrt(a * b);
        t -= p * (a - next) * (a - next);
        a = next;
        p *= 2;
    }
    CHECK(fabs((a + b) * (a + b) / (4 * t) - 3.14159265358979323846) < 2e-15);

    /* A known sum over matrices: (i*j) products have a closed form. */
    static double x[64][64], y[64][64], z[64][64];
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            x[i][j] = i + j, y[i][j] = i - j;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            for (int k = 0; k < 64; k++)
                z[i][j] += x[i][k] * y[k][j];
    size_t wrong = 0;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            /* sum over k of (i+k)(k-j) = sum k^2 + (i-j) sum k - 64 i j */
            double expected = 85344.0 + (i - j) * 2016.0 - 64.0 * i * j;
            wrong += z[i][j] != expected;
        }
    CHECK(wrong == 0);
    return check_done("floats");
}
